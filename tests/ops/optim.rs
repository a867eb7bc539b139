//! Gradient clipping and AdamW.

use crate::harness::{ARITH, DTYPES, Dense, Stand, everywhere};
use flanrt::ops::AdamW;
use flanrt::ops::optim::clip_scratch;
use flanrt::tensor::{DType, Tensor};

const SIZES: [usize; 6] = [0, 1, 31, 123, 16_384, 70_001];

fn clip(s: &Stand, grads: Tensor, max_norm: f32, unscale: f32) -> Tensor {
    let out = s.blank(Dense, DType::F32, 1, 2);
    let scratch = s.blank(Dense, DType::F32, 1, clip_scratch(grads.cols()));
    s.device.clip(out, grads, max_norm, unscale, scratch);
    out
}

#[test]
fn clip_measures_the_norm() {
    for n in SIZES {
        for (max_norm, unscale, size) in
            [(1.0, 1.0, 1e-4), (1.0, 0.125, 3.0), (0.5, 2.0, 1e15), (f32::INFINITY, 1.0, 1.0)]
        {
            everywhere("clip", |s| {
                let grads = s.normal(Dense, DType::F32, 1, n, size);
                let out = clip(s, grads, max_norm, unscale);
                let sum: f64 = s.get(grads).iter().map(|g| g * g).sum();
                let norm = sum.sqrt() * f64::from(unscale);
                let factor = f64::from(unscale) * (f64::from(max_norm) / (norm + 1e-6)).min(1.0);
                // The sum is f64: only the last rounding is left.
                let half_ulp = |x: f64| x * 0.5f64.powi(24) * 1.0001;
                let got = s.get(out);
                assert!(
                    (got[0] - norm).abs() <= half_ulp(norm) && (got[1] - factor).abs() <= half_ulp(factor),
                    "{n}: {got:?}, not {norm} and {factor}"
                );
                vec![out]
            });
        }
    }
}

/// Five steps of a parameter group: weights, master, m, v.
pub(crate) fn steps(s: &Stand, dtype: DType, n: usize, same_weights: bool) -> Vec<Tensor> {
    let (b1, b2, eps, decay) = (0.9f64, 0.95f64, 1e-8f32, 0.1f32);
    let master = s.normal(Dense, DType::F32, 1, n, 1.0);
    let weights = if same_weights { master } else { s.blank(Dense, dtype, 1, n) };
    let [m, v] = [0, 1].map(|_| s.put(Dense, DType::F32, 1, n, &vec![0.0; n]));
    let (mut w64, mut m64, mut v64) = (s.get(master), vec![0.0; n], vec![0.0; n]);
    for step in 1..=5 {
        let lr = 0.01 * step as f32;
        let grads = s.normal(Dense, DType::F32, 1, n, 2.0);
        let clip = clip(s, grads, 3.0, 0.5);
        let factor = s.get(clip)[1];
        s.device.adamw(
            weights,
            master,
            m,
            v,
            grads,
            clip,
            AdamW { lr, beta1: b1, beta2: b2, eps, decay, step },
        );
        let lr = f64::from(lr);
        for (i, g) in s.get(grads).iter().enumerate() {
            let g = g * factor;
            m64[i] = b1 * m64[i] + (1.0 - b1) * g;
            v64[i] = b2 * v64[i] + (1.0 - b2) * g * g;
            let (m_hat, v_hat) =
                (m64[i] / (1.0 - b1.powi(step as i32)), v64[i] / (1.0 - b2.powi(step as i32)));
            w64[i] -= lr * f64::from(decay) * w64[i];
            w64[i] -= lr * m_hat / (v_hat.sqrt() + f64::from(eps));
        }
    }
    s.close("master", ARITH, master, || w64);
    s.close("m", ARITH, m, || m64);
    s.close("v", ARITH, v, || v64);
    let rounded = s.put(Dense, weights.dtype(), 1, n, &s.get(master));
    assert!(s.bits(weights) == s.bits(rounded), "weights are the rounded master");
    vec![weights, master, m, v]
}

#[test]
fn adamw_follows_the_formula() {
    for n in SIZES {
        for dtype in DTYPES {
            everywhere("adamw", |s| steps(s, dtype, n, false));
        }
        everywhere("adamw in place", |s| steps(s, DType::F32, n, true));
    }
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        everywhere("adamw and NaN", |s| {
            let n = 20_000;
            let state: [Tensor; 4] =
                [DType::BF16, DType::F32, DType::F32, DType::F32].map(|d| s.normal(Dense, d, 1, n, 1.0));
            let [weights, master, m, v] = state;
            let mut values = s.normals(n, 1.0);
            values[n - 3] = bad;
            let grads = s.put(Dense, DType::F32, 1, n, &values);
            let before = state.map(|x| s.bits(x));
            let clip = clip(s, grads, 1.0, 1.0);
            assert!(s.get(clip)[1].is_nan());
            let how = AdamW { lr: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8, decay: 0.1, step: 3 };
            s.device.adamw(weights, master, m, v, grads, clip, how);
            assert!(before == state.map(|x| s.bits(x)));
            vec![]
        });
    }
}
