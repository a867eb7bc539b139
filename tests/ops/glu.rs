//! SwiGLU.

use crate::harness::{ARITH, DTYPES, Dense, Lay, Stand, Strided, derivative, everywhere};
use flanrt::tensor::{DType, Tensor};

fn swiglu(gate: f64, up: f64) -> f64 {
    gate / (1.0 + (-gate).exp()) * up
}

pub(crate) fn case(s: &Stand, lay: Lay, dtype: DType, t: usize, f: usize, in_place: bool) -> Vec<Tensor> {
    let x = s.normal(lay, dtype, t, 2 * f, 3.0);
    let y = s.blank(lay, dtype, t, f);
    s.device.swiglu_fwd(y, x);
    let xs = s.get(x);
    let pair = |i: usize| (xs[i / f * 2 * f + i % f], xs[i / f * 2 * f + f + i % f]);
    s.close("swiglu_fwd", ARITH, y, || (0..t * f).map(|i| swiglu(pair(i).0, pair(i).1)).collect());
    let dy = s.normal(lay, dtype, t, f, 1.0);
    let dx = if in_place { x } else { s.blank(lay, dtype, t, 2 * f) };
    s.device.swiglu_bwd(dx, dy, x);
    s.close("swiglu_bwd", ARITH, dx, || {
        let dys = s.get(dy);
        let mut want = vec![0.0; t * 2 * f];
        for i in 0..t * f {
            let d = derivative(&[pair(i).0, pair(i).1], |x| dys[i] * swiglu(x[0], x[1]));
            (want[i / f * 2 * f + i % f], want[i / f * 2 * f + f + i % f]) = (d[0], d[1]);
        }
        want
    });
    vec![y, dx]
}

#[test]
fn swiglu_and_its_gradient() {
    for dtype in DTYPES {
        for (t, f) in [(0, 5), (1, 1), (31, 33), (123, 31), (2, 9000)] {
            everywhere("swiglu", |s| case(s, Dense, dtype, t, f, false));
            everywhere("swiglu", |s| case(s, Strided, dtype, t, f, true));
        }
    }
}

#[test]
fn saturated_gates_stay_finite() {
    everywhere("swiglu saturated", |s| {
        let gates = [-1e4, -200.0, -88.0, -87.0, 0.0, 87.0, 89.0, 1e4];
        let both: Vec<f64> = gates.into_iter().chain([0.5; 8]).collect();
        let x = s.put(Dense, DType::F32, 1, 16, &both);
        let y = s.blank(Dense, DType::F32, 1, 8);
        let dx = s.blank(Dense, DType::F32, 1, 16);
        s.device.swiglu_fwd(y, x);
        s.device.swiglu_bwd(dx, s.put(Dense, DType::F32, 1, 8, &[1.0; 8]), x);
        s.close("y", ARITH, y, || gates.map(|g| swiglu(g, 0.5)).to_vec());
        assert!(s.get(dx).iter().all(|d| d.is_finite()), "{:?}", s.get(dx));
        vec![y, dx]
    });
}
