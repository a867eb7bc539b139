//! SwiGLU and GELU.

use super::rows::{load, shape, store, view, with_buffers};
use super::simd::{exp, gelu_all, gelu_slope, vectorized};
use super::{Cpu, rows_for};
use crate::ops::glu::Glu;
use crate::tensor::Tensor;

vectorized! {
    fn forward(y: &mut [f32], gate: &[f32], up: &[f32]) {
        for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
            *y = g / (1.0 + exp(-g)) * u;
        }
    }
}

vectorized! {
    /// With `s = sigmoid(gate)`: `dgate = dy up s (1 + gate (1 - s))`, `dup = dy gate s`.
    fn backward(dgate: &mut [f32], dup: &mut [f32], dy: &[f32], gate: &[f32], up: &[f32]) {
        let n = dy.len();
        let (dgate, dup, gate, up) = (&mut dgate[..n], &mut dup[..n], &gate[..n], &up[..n]);
        for i in 0..n {
            let s = 1.0 / (1.0 + exp(-gate[i]));
            dgate[i] = dy[i] * up[i] * s * gate[i].mul_add(1.0 - s, 1.0);
            dup[i] = dy[i] * gate[i] * s;
        }
    }
}

vectorized! {
    /// `d *= gelu'(x)`.
    fn gelu_backward(d: &mut [f32], x: &[f32]) {
        for (d, x) in d.iter_mut().zip(x) {
            *d *= gelu_slope(*x);
        }
    }
}

impl Glu for Cpu {
    fn swiglu_fwd(&self, y: Tensor, gate_up: Tensor) {
        let f = y.cols();
        shape!(gate_up, y.rows(), 2 * f);
        self.blocks(y.rows(), rows_for(f, 1 << 13), |rows| {
            with_buffers([f, 2 * f], |[out, line]| {
                for r in rows {
                    let (gate, up) = view(line, gate_up, r, 0, 2 * f).split_at(f);
                    forward(out, gate, up);
                    store(y, r, 0, out);
                }
            });
        });
    }

    fn swiglu_bwd(&self, dgate_up: Tensor, dy: Tensor, gate_up: Tensor) {
        let f = dy.cols();
        shape!(gate_up, dy.rows(), 2 * f);
        shape!(dgate_up, dy.rows(), 2 * f);
        self.blocks(dy.rows(), rows_for(f, 1 << 13), |rows| {
            with_buffers([2 * f, 2 * f, f], |[out, line, dys]| {
                for r in rows {
                    let (gate, up) = view(line, gate_up, r, 0, 2 * f).split_at(f);
                    let (dgate, dup) = out.split_at_mut(f);
                    backward(dgate, dup, view(dys, dy, r, 0, f), gate, up);
                    store(dgate_up, r, 0, out);
                }
            });
        });
    }

    fn gelu_fwd(&self, y: Tensor, x: Tensor) {
        let f = x.cols();
        shape!(y, x.rows(), f);
        self.blocks(x.rows(), rows_for(f, 1 << 13), |rows| {
            with_buffers([f], |[line]| {
                for r in rows {
                    load(line, x, r, 0);
                    gelu_all(line);
                    store(y, r, 0, line);
                }
            });
        });
    }

    fn gelu_bwd(&self, dx: Tensor, dy: Tensor, x: Tensor) {
        let f = x.cols();
        shape!(dy, x.rows(), f);
        shape!(dx, x.rows(), f);
        self.blocks(x.rows(), rows_for(f, 1 << 13), |rows| {
            with_buffers([f, f], |[line, xs]| {
                for r in rows {
                    load(line, dy, r, 0);
                    gelu_backward(line, view(xs, x, r, 0, f));
                    store(dx, r, 0, line);
                }
            });
        });
    }
}
