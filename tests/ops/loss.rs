//! The vocabulary product with cross-entropy and log-probabilities.

use crate::harness::{ARITH, DTYPES, Dense, Lay, Stand, Strided, checked, derivative, dot, everywhere};
use flanrt::ops::loss::NO_TARGET;
use flanrt::rng::Rng;
use flanrt::tensor::{DType, Tensor};

/// `log softmax(w x)[target]` of one row.
fn reference(x: &[f64], w: &[f64], target: usize) -> f64 {
    let logits: Vec<f64> = w.chunks(x.len()).map(|w| dot(w, x)).collect();
    let top = logits.iter().copied().fold(f64::MIN, f64::max);
    logits[target] - top - logits.iter().map(|l| (l - top).exp()).sum::<f64>().ln()
}

fn targets(r: usize, v: usize) -> Vec<u32> {
    (0..r as u64).map(|i| Rng::new(5, 5).below(i, v as u64) as u32).collect()
}

/// Rows asked for: with gaps and repeats.
fn asks(r: usize) -> Vec<u32> {
    (0..r as u32).flat_map(|i| std::iter::repeat_n(i, [1, 3, 0][i as usize % 3])).collect()
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) r: usize,
    pub(crate) d: usize,
    pub(crate) v: usize,
    /// Rows of logits held at a time.
    pub(crate) chunk: usize,
    /// Spread of the logits, about.
    pub(crate) spread: f64,
}

/// loss, dx, dw, log-probabilities, best tokens.
pub(crate) fn run(s: &Stand, lay: Lay, dtype: DType, case: Case) -> Vec<Tensor> {
    const SCALE: f32 = 0.37;
    let Case { r, d, v, chunk, spread } = case;
    let x = s.normal(lay, dtype, r, d, 1.0);
    let w = s.normal(lay, dtype, v, d, spread / (d as f64).sqrt());
    let scratch = s.blank(Dense, DType::F32, chunk, v);
    let wanted = targets(r, v);
    let scale = s.put(Dense, DType::F32, 1, 1, &[f64::from(SCALE)]);
    let (loss, dx) = (s.blank(Dense, DType::F32, 1, r), s.blank(lay, dtype, r, d));
    let dw = s.normal(lay, DType::F32, v, d, 0.01);
    let (xs, ws, dws) = (s.get(x), s.get(w), s.get(dw));
    s.device.linear_cross_entropy(loss, dx, dw, x, w, s.index(&wanted), scale, scratch);
    let row = |i: usize| &xs[i * d..][..d];
    // Logits of size `spread` have errors of that size in the loss and in the exponents.
    let arith = ARITH * spread.max(1.0);
    s.close("loss", arith, loss, || (0..r).map(|i| -reference(row(i), &ws, wanted[i] as usize)).collect());
    // Derivatives of the weight: only of the rows sampled here, for each of them all columns.
    let total =
        |w: &[f64]| (0..r).map(|i| -reference(row(i), w, wanted[i] as usize)).sum::<f64>() * f64::from(SCALE);
    let products = arith + s.rounding_of_logits(dtype);
    s.close("dx", products, dx, || {
        (0..r)
            .flat_map(|i| derivative(row(i), |x| -f64::from(SCALE) * reference(x, &ws, wanted[i] as usize)))
            .collect()
    });
    for j in [0, v / 2, wanted.first().map_or(0, |&t| t as usize)] {
        s.close("dw", products, dw.slice_rows(j..j + 1), || {
            let grad = derivative(&ws[j * d..][..d], |part| {
                let mut w = ws.clone();
                w[j * d..][..d].copy_from_slice(part);
                total(&w)
            });
            dws[j * d..][..d].iter().zip(grad).map(|(before, g)| before + g).collect()
        });
    }

    let rows = asks(r);
    let wanted = targets(rows.len(), v);
    let (logprob, best) =
        (s.blank(Dense, DType::F32, 1, rows.len()), s.blank(Dense, DType::U32, 1, rows.len()));
    s.device.linear_logprob(logprob, best, x, w, s.index(&rows), s.index(&wanted), scratch);
    s.close("logprob", arith, logprob, || {
        rows.iter().zip(&wanted).map(|(&i, &t)| reference(row(i as usize), &ws, t as usize)).collect()
    });
    for (&i, best) in rows.iter().zip(s.get(best)) {
        let logit = |j: usize| dot(row(i as usize), &ws[j * d..][..d]);
        let top = (0..v).map(logit).fold(f64::MIN, f64::max);
        assert!(top - logit(best as usize) <= arith * (top.abs() + 1.0), "row {i}: best token {best}");
    }
    vec![loss, dx, dw, logprob, best]
}

const CASES: [Case; 7] = [
    Case { r: 0, d: 5, v: 7, chunk: 2, spread: 1.0 },
    Case { r: 1, d: 1, v: 1, chunk: 1, spread: 1.0 },
    Case { r: 5, d: 31, v: 123, chunk: 8, spread: 3.0 },
    Case { r: 33, d: 33, v: 31, chunk: 4, spread: 1.0 },
    Case { r: 4, d: 10, v: 2500, chunk: 3, spread: 1.0 },
    Case { r: 3, d: 31, v: 123, chunk: 1, spread: 80.0 },
    Case { r: 21, d: 24, v: 157, chunk: 5, spread: 2.0 },
];

#[test]
fn losses_gradients_and_log_probabilities() {
    for dtype in DTYPES {
        for case in CASES {
            for lay in [Dense, Strided] {
                everywhere(&format!("{case:?} {dtype:?}"), |s| run(s, lay, dtype, case));
            }
        }
    }
}

#[test]
fn the_chunk_size_changes_no_bit_of_a_row() {
    for dtype in DTYPES {
        everywhere("chunks", |s| {
            let of = |chunk| {
                let fresh = Stand::new(s.device, false); // starts the random numbers over
                let out = run(&fresh, Dense, dtype, Case { r: 33, d: 40, v: 1100, chunk, spread: 2.0 });
                [0, 1, 3, 4].map(|i| fresh.bits(out[i]))
            };
            let sizes: &[usize] = if checked() { &[2, 100] } else { &[1, 2, 7, 32, 100] };
            let all = Vec::from_iter(sizes.iter().map(|&chunk| of(chunk)));
            assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "{dtype:?}");
            vec![]
        });
    }
}

/// Batches are filled up with rows that predict nothing: they add nothing and change nothing.
#[test]
fn no_target_asks_for_nothing() {
    for dtype in DTYPES {
        everywhere("no target", |s| {
            let (r, d, v) = (5, 16, 40);
            let x = s.normal(Dense, dtype, r, d, 1.0);
            let w = s.normal(Dense, dtype, v, d, 0.3);
            let scale = s.put(Dense, DType::F32, 1, 1, &[0.5]);
            let scratch = s.blank(Dense, DType::F32, 3, v);
            let all = |targets: &[u32]| {
                let rows = targets.len();
                let x = x.slice_rows(0..rows);
                let (loss, dx) = (s.blank(Dense, DType::F32, 1, rows), s.blank(Dense, dtype, rows, d));
                let dw = s.put(Dense, DType::F32, v, d, &vec![0.0; v * d]);
                let index = s.raw_index(targets);
                s.device.linear_cross_entropy(loss, dx, dw, x, w, index, scale, scratch);
                let (logprob, best) =
                    (s.blank(Dense, DType::F32, 1, rows), s.blank(Dense, DType::U32, 1, rows));
                let asked = s.index(&Vec::from_iter(0..rows as u32));
                s.device.linear_logprob(logprob, best, x, w, asked, index, scratch);
                [loss, dx, logprob, dw].map(|t| s.get(t))
            };
            let filled = all(&[7, 0, 39, NO_TARGET, NO_TARGET]);
            let plain = all(&[7, 0, 39]);
            for (filled, plain) in filled.iter().zip(&plain).take(3) {
                assert_eq!(filled[..plain.len()], plain[..]);
                assert!(filled[plain.len()..].iter().all(|&x| x == 0.0), "{filled:?}");
            }
            assert_eq!(filled[3], plain[3], "dw");
            vec![]
        });
    }
}

#[test]
fn the_first_of_equal_logits_is_best() {
    everywhere("ties", |s| {
        let x = s.put(Dense, DType::F32, 1, 1, &[1.0]);
        let mut w = vec![0.0; 100];
        for i in [17, 40, 99] {
            w[i] = 2.0;
        }
        let w = s.put(Dense, DType::F32, 100, 1, &w);
        let (logprob, best) = (s.blank(Dense, DType::F32, 1, 1), s.blank(Dense, DType::U32, 1, 1));
        let scratch = s.blank(Dense, DType::F32, 1, 100);
        s.device.linear_logprob(logprob, best, x, w, s.index(&[0]), s.index(&[40]), scratch);
        assert_eq!(s.get(best), [17.0]);
        vec![logprob]
    });
}
