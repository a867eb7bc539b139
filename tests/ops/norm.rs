//! RMSNorm over groups of columns.

use crate::harness::{ARITH, DTYPES, Dense, Lay, Stand, Strided, derivative, dot, everywhere};
use flanrt::ops::norm::bwd_scratch_rows;
use flanrt::tensor::{DType, Tensor};

const EPS: f32 = 1e-5;

/// One group of one row.
fn reference(x: &[f64], w: &[f64]) -> Vec<f64> {
    let rstd = (dot(x, x) / x.len() as f64 + f64::from(EPS)).sqrt().recip();
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
    s.close("rstd", ARITH, rstd, || {
        xs.chunks(n).map(|x| 1.0 / (dot(x, x) / n as f64 + f64::from(EPS)).sqrt()).collect()
    });

    let dy = s.normal(lay, dtype, t, groups * n, 1.0);
    let residual = s.normal(lay, dtype, t, groups * n, 1.0);
    let dw = s.normal(Dense, DType::F32, 1, n, 1.0);
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

#[test]
fn a_row_is_the_same_alone() {
    for dtype in DTYPES {
        everywhere("rms_norm rows", |s| {
            let (t, n) = (70, 33);
            let x = s.normal(Strided, dtype, t, n, 1.0);
            let dy = s.normal(Dense, dtype, t, n, 1.0);
            let w = s.normal(Dense, dtype, 1, n, 1.0);
            let [y, dx] = [0, 1].map(|_| s.blank(Dense, dtype, t, n));
            let rstd = s.blank(Dense, DType::F32, t, 1);
            let scratch = s.blank(Dense, DType::F32, bwd_scratch_rows(t), n);
            let run = |rows: std::ops::Range<usize>| {
                let of = |x: Tensor| x.slice_rows(rows.clone());
                let dw = s.put(Dense, DType::F32, 1, n, &[0.0; 33]);
                s.device.rms_norm_fwd(of(y), of(rstd), of(x), w, EPS);
                s.device.rms_norm_bwd(of(dx), dw, of(dy), of(x), w, of(rstd), None, scratch);
                [of(y), of(dx), of(rstd)].map(|x| s.bits(x.slice_rows(rows.len() - 1..rows.len())))
            };
            for r in [0, 1, 63, 64, 69] {
                assert!(run(0..r + 1) == run(r..r + 1), "row {r}");
            }
            vec![y, dx]
        });
    }
}
