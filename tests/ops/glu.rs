//! SwiGLU and GELU.

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

/// The tanh form, written so that f64 keeps its negative tail.
fn gelu(x: f64) -> f64 {
    let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
    x / (1.0 + (-2.0 * u).exp())
}

/// Where the gradient goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Over {
    Fresh,
    Dy,
    X,
}

pub(crate) fn gelu_case(s: &Stand, lay: Lay, dtype: DType, t: usize, f: usize, over: Over) -> Vec<Tensor> {
    let [x, dy] = [3.0, 1.0].map(|scale| s.normal(lay, dtype, t, f, scale));
    let [y, fresh] = [0, 1].map(|_| s.blank(lay, dtype, t, f));
    s.device.gelu_fwd(y, x);
    let (xs, dys) = (s.get(x), s.get(dy));
    s.close("gelu_fwd", ARITH, y, || xs.iter().map(|&x| gelu(x)).collect());
    let dx = match over {
        Over::Fresh => fresh,
        Over::Dy => dy,
        Over::X => x,
    };
    s.device.gelu_bwd(dx, dy, x);
    s.close("gelu_bwd", ARITH, dx, || {
        xs.iter().zip(&dys).map(|(&x, &dy)| derivative(&[x], |x| dy * gelu(x[0]))[0]).collect()
    });
    vec![y, dx]
}

#[test]
fn gelu_and_its_gradient() {
    for dtype in DTYPES {
        for (t, f) in [(0, 5), (1, 1), (31, 33), (123, 64), (2, 9000)] {
            everywhere("gelu", |s| gelu_case(s, Dense, dtype, t, f, Over::Fresh));
            everywhere("gelu", |s| gelu_case(s, Strided, dtype, t, f, Over::Dy));
            everywhere("gelu", |s| gelu_case(s, Dense, dtype, t, f, Over::X));
        }
    }
}

#[test]
fn gelu_far_out() {
    everywhere("gelu far out", |s| {
        let xs = [-1e30, -1e4, -10.5, -10.0, -9.5, -0.0, 0.0, 9.5, 10.0, 10.5, 1e4, 1e30];
        let x = s.put(Dense, DType::F32, 1, 12, &xs);
        let [y, dx] = [0, 1].map(|_| s.blank(Dense, DType::F32, 1, 12));
        s.device.gelu_fwd(y, x);
        s.device.gelu_bwd(dx, s.put(Dense, DType::F32, 1, 12, &[1.0; 12]), x);
        for ((x, y), dx) in xs.iter().zip(s.get(y)).zip(s.get(dx)) {
            let (value, slope) =
                if *x > 9.0 { (f64::from(*x as f32), 1.0) } else { (0.0, if *x == 0.0 { 0.5 } else { 0.0 }) };
            assert!((y - value).abs() <= 1e-6 * value + 1e-12 && (dx - slope).abs() < 1e-6, "{x}: {y}, {dx}");
        }
        vec![y, dx]
    });
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
