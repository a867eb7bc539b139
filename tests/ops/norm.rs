//! RMSNorm over groups of columns; LayerNorm.

use crate::harness::{ARITH, DTYPES, Dense, Lay, Stand, Strided, derivative, dot, everywhere};
use flanrt::ops::norm::bwd_scratch_rows;
use flanrt::tensor::{DType, Tensor};

const EPS: f32 = 1e-5;

fn reciprocal_rms(x: &[f64]) -> f64 {
    (dot(x, x) / x.len() as f64 + f64::from(EPS)).sqrt().recip()
}

/// One group of one row.
fn reference(x: &[f64], w: &[f64]) -> Vec<f64> {
    let rstd = reciprocal_rms(x);
    x.iter().zip(w).map(|(x, w)| x * rstd * w).collect()
}

/// Where the gradient of the input goes, and whether a residual's gradient joins it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Into {
    Fresh,
    OverDy,
    FreshPlus,
    OverPlus,
}

pub(crate) fn case(
    s: &Stand,
    lay: Lay,
    dtype: DType,
    (t, n, groups): (usize, usize, usize),
    into: Into,
) -> Vec<Tensor> {
    let x = s.normal(lay, dtype, t, groups * n, 1.5);
    let w = s.normal(Dense, dtype, 1, n, 1.0);
    let (y, rstd) = (s.blank(lay, dtype, t, groups * n), s.blank(lay, DType::F32, t, groups));
    s.device.rms_norm_fwd(y, rstd, x, w, EPS);
    let (xs, ws) = (s.get(x), s.get(w));
    s.close("y", ARITH, y, || xs.chunks(n).flat_map(|x| reference(x, &ws)).collect());
    s.close("rstd", ARITH, rstd, || xs.chunks(n).map(reciprocal_rms).collect());

    let dy = s.normal(lay, dtype, t, groups * n, 1.0);
    let residual = s.normal(lay, dtype, t, groups * n, 1.0);
    let grads = if matches!(into, Into::FreshPlus) { dtype } else { DType::F32 };
    let dw = s.normal(Dense, grads, 1, n, 1.0);
    let scratch = s.blank(Dense, DType::F32, bwd_scratch_rows(t), n);
    let fresh = s.blank(lay, dtype, t, groups * n);
    let (dys, residuals, mut dws) = (s.get(dy), s.get(residual), s.get(dw));
    let (dx, plus) = match into {
        Into::Fresh => (fresh, None),
        Into::OverDy => (dy, None),
        Into::FreshPlus => (fresh, Some(residual)),
        Into::OverPlus => (residual, Some(residual)),
    };
    s.device.rms_norm_bwd(dx, dw, dy, x, w, rstd, plus, scratch);
    s.close("dx", ARITH, dx, || {
        let mut want: Vec<f64> = xs
            .chunks(n)
            .zip(dys.chunks(n))
            .flat_map(|(x, dy)| derivative(x, |x| dot(dy, &reference(x, &ws))))
            .collect();
        if plus.is_some() {
            want.iter_mut().zip(&residuals).for_each(|(d, r)| *d += r);
        }
        want
    });
    s.close("dw", ARITH, dw, || {
        for (x, dy) in xs.chunks(n).zip(dys.chunks(n)) {
            let d = derivative(&ws, |w| dot(dy, &reference(x, w)));
            dws.iter_mut().zip(d).for_each(|(sum, d)| *sum += d);
        }
        dws
    });
    vec![y, rstd, dx, dw]
}

/// A row of LayerNorm.
fn layer_reference(x: &[f64], w: &[f64], b: &[f64]) -> Vec<f64> {
    let (mean, rstd) = moments(x);
    x.iter().zip(w).zip(b).map(|((x, w), b)| (x - mean) * rstd * w + b).collect()
}

fn moments(x: &[f64]) -> (f64, f64) {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
    (mean, (variance + f64::from(EPS)).sqrt().recip())
}

/// `grads`: dtype of the parameters' gradients.
pub(crate) fn layer_case(
    s: &Stand,
    lay: Lay,
    (dtype, grads): (DType, DType),
    (t, n): (usize, usize),
    into: Into,
) -> Vec<Tensor> {
    let biased = matches!(into, Into::Fresh | Into::OverPlus);
    // Rows with a mean: taking it off must not cost precision.
    let shifted: Vec<f64> = s.normals(t * n, 1.5).into_iter().map(|x| x + 2.0).collect();
    let x = s.put(lay, dtype, t, n, &shifted);
    let w = s.normal(Dense, dtype, 1, n, 1.0);
    let b = s.normal(Dense, dtype, 1, n, 1.0);
    let y = s.blank(lay, dtype, t, n);
    let [mean, rstd] = [0, 1].map(|_| s.blank(lay, DType::F32, t, 1));
    s.device.layer_norm_fwd(y, mean, rstd, x, w, biased.then_some(b), EPS);
    let (xs, ws) = (s.get(x), s.get(w));
    let bs = if biased { s.get(b) } else { vec![0.0; n] };
    s.close("y", ARITH, y, || xs.chunks(n).flat_map(|x| layer_reference(x, &ws, &bs)).collect());
    s.close("mean", ARITH, mean, || xs.chunks(n).map(|x| moments(x).0).collect());
    s.close("rstd", ARITH, rstd, || xs.chunks(n).map(|x| moments(x).1).collect());

    let dy = s.normal(lay, dtype, t, n, 1.0);
    let residual = s.normal(lay, dtype, t, n, 1.0);
    let [dw, db] = [0, 1].map(|_| s.normal(Dense, grads, 1, n, 1.0));
    let scratch = s.blank(Dense, DType::F32, 2 * bwd_scratch_rows(t), n);
    let fresh = s.blank(lay, dtype, t, n);
    let (dys, residuals, mut dws, mut dbs) = (s.get(dy), s.get(residual), s.get(dw), s.get(db));
    let (dx, plus) = match into {
        Into::Fresh => (fresh, None),
        Into::OverDy => (dy, None),
        Into::FreshPlus => (fresh, Some(residual)),
        Into::OverPlus => (residual, Some(residual)),
    };
    s.device.layer_norm_bwd(dx, dw, biased.then_some(db), dy, x, w, mean, rstd, plus, scratch);
    s.close("dx", ARITH, dx, || {
        let mut want: Vec<f64> = xs
            .chunks(n)
            .zip(dys.chunks(n))
            .flat_map(|(x, dy)| derivative(x, |x| dot(dy, &layer_reference(x, &ws, &bs))))
            .collect();
        if plus.is_some() {
            want.iter_mut().zip(&residuals).for_each(|(d, r)| *d += r);
        }
        want
    });
    s.close("dw", ARITH, dw, || {
        for (x, dy) in xs.chunks(n).zip(dys.chunks(n)) {
            let d = derivative(&ws, |w| dot(dy, &layer_reference(x, w, &bs)));
            dws.iter_mut().zip(d).for_each(|(sum, d)| *sum += d);
        }
        dws
    });
    s.close("db", ARITH, db, || {
        if biased {
            dys.iter().enumerate().for_each(|(i, dy)| dbs[i % n] += dy);
        }
        dbs
    });
    vec![y, mean, rstd, dx, dw, db]
}

#[test]
fn layer_norm_and_its_gradient() {
    for dtype in DTYPES {
        // Of one column there is only what rounding leaves, times 1 / sqrt(eps).
        for shape in [(0, 5), (1, 123), (31, 33), (130, 8), (200, 64), (2, 700)] {
            everywhere("layer_norm", |s| layer_case(s, Dense, (dtype, DType::F32), shape, Into::Fresh));
            everywhere("layer_norm", |s| layer_case(s, Strided, (dtype, dtype), shape, Into::OverDy));
            everywhere("layer_norm", |s| layer_case(s, Dense, (dtype, dtype), shape, Into::FreshPlus));
            everywhere("layer_norm", |s| layer_case(s, Strided, (dtype, DType::F32), shape, Into::OverPlus));
        }
    }
}

#[test]
fn norm_and_its_gradient() {
    for dtype in DTYPES {
        for shape in [(0, 5, 1), (1, 1, 1), (1, 123, 1), (31, 33, 1), (65, 31, 3), (130, 8, 5), (200, 64, 1)]
        {
            // A gradient of one column is a difference of equal terms: only a residual gives it a size to compare with.
            if shape.1 > 1 {
                everywhere("rms_norm", |s| case(s, Dense, dtype, shape, Into::Fresh));
                everywhere("rms_norm", |s| case(s, Strided, dtype, shape, Into::OverDy));
            }
            everywhere("rms_norm", |s| case(s, Dense, dtype, shape, Into::FreshPlus));
            everywhere("rms_norm", |s| case(s, Strided, dtype, shape, Into::OverPlus));
        }
    }
}

/// Rows too wide for central differences: against the formula, and every width a device may treat in its own way.
#[test]
fn wide_rows() {
    for (dtype, n) in DTYPES.iter().flat_map(|&d| [768, 1025, 2048, 4097, 8192, 9001].map(|n| (d, n))) {
        everywhere("wide norms", |s| {
            let t = 3;
            let lay = if n % 2 == 0 { Dense } else { Strided };
            let [x, dy] = [0, 1].map(|_| s.normal(lay, dtype, t, n, 1.5));
            let w = s.normal(Dense, dtype, 1, n, 1.0);
            let [y, dx] = [0, 1].map(|_| s.blank(lay, dtype, t, n));
            let [mean, rstd] = [0, 1].map(|_| s.blank(Dense, DType::F32, t, 1));
            let [dw, db] = [0, 1].map(|_| s.put(Dense, DType::F32, 1, n, &vec![0.0; n]));
            let scratch = s.blank(Dense, DType::F32, 2, n);
            let (xs, dys, ws) = (s.get(x), s.get(dy), s.get(w));
            // Both norms: with a mean of 0, one is the other.
            for layer in [false, true] {
                let of = |x: &[f64]| {
                    let (mu, scale) = if layer { moments(x) } else { (0.0, reciprocal_rms(x)) };
                    x.iter().map(|x| (x - mu) * scale).collect::<Vec<f64>>()
                };
                let zeros = vec![0.0; n];
                s.fill(dw, &zeros);
                if layer {
                    s.device.layer_norm_fwd(y, mean, rstd, x, w, None, EPS);
                    s.device.layer_norm_bwd(dx, dw, Some(db), dy, x, w, mean, rstd, None, scratch);
                } else {
                    s.device.rms_norm_fwd(y, rstd, x, w, EPS);
                    s.device.rms_norm_bwd(dx, dw, dy, x, w, rstd, None, scratch.slice_rows(0..1));
                }
                s.close("y", ARITH, y, || {
                    xs.chunks(n).flat_map(|x| of(x).into_iter().zip(&ws).map(|(x, w)| x * w)).collect()
                });
                s.close("dx", ARITH, dx, || {
                    let mut want = Vec::new();
                    for (x, dy) in xs.chunks(n).zip(dys.chunks(n)) {
                        let (hats, scale) = (of(x), if layer { moments(x).1 } else { reciprocal_rms(x) });
                        let g: Vec<f64> = dy.iter().zip(&ws).map(|(dy, w)| dy * w).collect();
                        let along = dot(&g, &hats) / n as f64;
                        let level = if layer { g.iter().sum::<f64>() / n as f64 } else { 0.0 };
                        want.extend(g.iter().zip(&hats).map(|(g, hat)| scale * (g - level - hat * along)));
                    }
                    want
                });
                s.close("dw", ARITH, dw, || {
                    let mut want = vec![0.0; n];
                    for (x, dy) in xs.chunks(n).zip(dys.chunks(n)) {
                        of(x).iter().zip(dy).enumerate().for_each(|(i, (x, dy))| want[i] += x * dy);
                    }
                    want
                });
            }
            s.close("db", ARITH, db, || {
                let mut want = vec![0.0; n];
                dys.iter().enumerate().for_each(|(i, dy)| want[i % n] += dy);
                want
            });
            vec![y, dx, dw, db]
        });
    }
}

#[test]
fn a_row_is_the_same_alone() {
    for dtype in DTYPES {
        everywhere("rms_norm rows", |s| {
            let (t, n) = (70, 33);
            let x = s.normal(Strided, dtype, t, n, 1.0);
            let dy = s.normal(Dense, dtype, t, n, 1.0);
            let w = s.normal(Dense, dtype, 1, n, 1.0);
            let [y, dx, ly, ldx] = [0; 4].map(|_| s.blank(Dense, dtype, t, n));
            let [rstd, mean, lrstd] = [0; 3].map(|_| s.blank(Dense, DType::F32, t, 1));
            let scratch = s.blank(Dense, DType::F32, 2 * bwd_scratch_rows(t), n);
            let run = |rows: std::ops::Range<usize>| {
                let of = |x: Tensor| x.slice_rows(rows.clone());
                let dw = s.put(Dense, DType::F32, 1, n, &[0.0; 33]);
                s.device.rms_norm_fwd(of(y), of(rstd), of(x), w, EPS);
                s.device.rms_norm_bwd(of(dx), dw, of(dy), of(x), w, of(rstd), None, scratch);
                s.device.layer_norm_fwd(of(ly), of(mean), of(lrstd), of(x), w, None, EPS);
                let stats = (of(mean), of(lrstd));
                s.device.layer_norm_bwd(of(ldx), dw, None, of(dy), of(x), w, stats.0, stats.1, None, scratch);
                [y, dx, rstd, ly, ldx, mean, lrstd]
                    .map(of)
                    .map(|x| s.bits(x.slice_rows(rows.len() - 1..rows.len())))
            };
            for r in [0, 1, 63, 64, 69] {
                assert!(run(0..r + 1) == run(r..r + 1), "row {r}");
            }
            vec![y, dx, ly, ldx]
        });
    }
}
