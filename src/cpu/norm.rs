//! RMSNorm.

use super::rows::{floats, load, shape, slice_mut, store, view, with_buffers};
use super::simd::{self, reduce, vectorized};
use super::{Cpu, rows_for};
use crate::ops::norm::{Norm, ROWS_PER_PARTIAL, bwd_scratch_rows};
use crate::tensor::Tensor;

vectorized! {
    fn normalize(y: &mut [f32], x: &[f32], w: &[f32], rstd: f32) {
        for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
            *y = x * rstd * w;
        }
    }
}

vectorized! {
    /// `dx += rstd * (dy w - xhat * mean(dy w xhat))`, `dw += dy xhat`, `xhat = x rstd`.
    fn backward(dx: &mut [f32], dw: &mut [f32], dy: &[f32], x: &[f32], w: &[f32], rstd: f32) {
        let n = x.len();
        let (dx, dw, dy, w) = (&mut dx[..n], &mut dw[..n], &dy[..n], &w[..n]);
        let mean = reduce([dy, w, x], |[dy, w, x], s| (dy * w).mul_add(x * rstd, s)) / n as f32;
        for i in 0..n {
            let xhat = x[i] * rstd;
            dx[i] += rstd * (-xhat).mul_add(mean, dy[i] * w[i]);
            dw[i] = dy[i].mul_add(xhat, dw[i]);
        }
    }
}

impl Norm for Cpu {
    fn rms_norm_fwd(&self, y: Tensor, rstd: Tensor, x: Tensor, w: Tensor, eps: f32) {
        let n = w.cols();
        let groups = x.cols() / n;
        shape!(w, 1, n);
        shape!(x, y.rows(), groups * n);
        shape!(y, x.rows(), groups * n);
        shape!(rstd, x.rows(), groups);
        self.blocks(x.rows(), rows_for(x.cols(), 1 << 14), |rows| {
            with_buffers([n, n, n], |[xs, ws, out]| {
                let w = view(ws, w, 0, 0, n);
                for r in rows {
                    // SAFETY: one task a row.
                    let rstd = unsafe { slice_mut::<f32>(rstd, r, 0, groups) };
                    for g in 0..groups {
                        let x = view(xs, x, r, g * n, n);
                        rstd[g] = 1.0 / (simd::dot(x, x) / n as f32 + eps).sqrt();
                        normalize(out, x, w, rstd[g]);
                        store(y, r, g * n, out);
                    }
                }
            });
        });
    }

    fn rms_norm_bwd(
        &self,
        dx: Tensor,
        dw: Tensor,
        dy: Tensor,
        x: Tensor,
        w: Tensor,
        rstd: Tensor,
        plus: Option<Tensor>,
        scratch: Tensor,
    ) {
        let (t, n) = (x.rows(), w.cols());
        let groups = x.cols() / n;
        shape!(dx, t, groups * n);
        shape!(dy, t, groups * n);
        shape!(rstd, t, groups);
        shape!(dw, 1, n);
        let partials = bwd_scratch_rows(t);
        assert!(scratch.rows() >= partials && scratch.cols() == n, "scratch {scratch:?} for {t} rows");
        self.blocks(t, ROWS_PER_PARTIAL, |rows| {
            // SAFETY: one task a partial.
            let dw = unsafe { slice_mut::<f32>(scratch, rows.start / ROWS_PER_PARTIAL, 0, n) };
            dw.fill(0.0);
            with_buffers([n, n, n, n, groups], |[xs, ws, dys, out, rs]| {
                let w = view(ws, w, 0, 0, n);
                for r in rows {
                    load(rs, rstd, r, 0);
                    for g in 0..groups {
                        match plus {
                            Some(plus) => load(out, plus, r, g * n),
                            None => out.fill(0.0),
                        }
                        backward(out, dw, view(dys, dy, r, g * n, n), view(xs, x, r, g * n, n), w, rs[g]);
                        store(dx, r, g * n, out);
                    }
                }
            });
        });
        let dw = floats(dw);
        for p in 0..partials {
            // SAFETY: all tasks are done.
            simd::add(dw, unsafe { slice_mut::<f32>(scratch, p, 0, n) });
        }
    }
}
