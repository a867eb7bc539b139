//! RMSNorm and LayerNorm.

use super::rows::{load, shape, slice_mut, store, view, with_buffers};
use super::simd::{self, reduce, vectorized};
use super::{Cpu, rows_for};
use crate::ops::norm::{Norm, ROWS_PER_PARTIAL, bwd_scratch_rows};
use crate::tensor::Tensor;
use std::ops::Range;

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

vectorized! {
    /// The mean of `x`, and `1 / sqrt` of its variance plus `eps`.
    fn moments(x: &[f32], eps: f32) -> (f32, f32) {
        let n = x.len() as f32;
        let mean = reduce([x], |[x], s| s + x) / n;
        let variance = reduce([x], |[x], s| (x - mean).mul_add(x - mean, s)) / n;
        (mean, 1.0 / (variance + eps).sqrt())
    }
}

vectorized! {
    /// `y` (a bias) becomes `(x - mean) rstd w + y`.
    fn center(y: &mut [f32], x: &[f32], w: &[f32], mean: f32, rstd: f32) {
        for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
            *y = ((x - mean) * rstd).mul_add(*w, *y);
        }
    }
}

vectorized! {
    /// With `xhat = (x - mean) rstd`, `g = dy w`: `dx += rstd (g - mean(g) - xhat mean(g xhat))`, `dw += dy xhat`.
    fn center_backward(dx: &mut [f32], dw: &mut [f32], dy: &[f32], x: &[f32], w: &[f32], mean: f32, rstd: f32) {
        let n = x.len();
        let (dx, dw, dy, w) = (&mut dx[..n], &mut dw[..n], &dy[..n], &w[..n]);
        let along = reduce([dy, w, x], |[dy, w, x], s| (dy * w).mul_add((x - mean) * rstd, s)) / n as f32;
        let level = reduce([dy, w], |[dy, w], s| s + dy * w) / n as f32;
        for i in 0..n {
            let xhat = (x[i] - mean) * rstd;
            // Not fused: the products of a row that is all alike must cancel, whatever rstd is.
            dx[i] += rstd * (-xhat).mul_add(along, dy[i] * w[i] - level);
            dw[i] = dy[i].mul_add(xhat, dw[i]);
        }
    }
}

/// `out += sum of rows of scratch`, in order.
fn add_partials(out: Tensor, scratch: Tensor, partials: Range<usize>) {
    let n = out.cols();
    with_buffers([n], |[sum]| {
        load(sum, out, 0, 0);
        for p in partials {
            // SAFETY: all tasks are done.
            simd::add(sum, unsafe { slice_mut::<f32>(scratch, p, 0, n) });
        }
        store(out, 0, 0, sum);
    });
}

/// Row `r` of `plus`, or zeros.
fn start(out: &mut [f32], plus: Option<Tensor>, r: usize, c: usize) {
    match plus {
        Some(plus) => load(out, plus, r, c),
        None => out.fill(0.0),
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
                        start(out, plus, r, g * n);
                        backward(out, dw, view(dys, dy, r, g * n, n), view(xs, x, r, g * n, n), w, rs[g]);
                        store(dx, r, g * n, out);
                    }
                }
            });
        });
        add_partials(dw, scratch, 0..partials);
    }

    fn layer_norm_fwd(
        &self,
        y: Tensor,
        mean: Tensor,
        rstd: Tensor,
        x: Tensor,
        w: Tensor,
        b: Option<Tensor>,
        eps: f32,
    ) {
        let (t, n) = (x.rows(), x.cols());
        shape!(y, t, n);
        shape!(mean, t, 1);
        shape!(rstd, t, 1);
        shape!(w, 1, n);
        if let Some(b) = b {
            shape!(b, 1, n);
        }
        self.blocks(t, rows_for(n, 1 << 14), |rows| {
            with_buffers([n, n, n], |[xs, ws, out]| {
                let w = view(ws, w, 0, 0, n);
                for r in rows {
                    let x = view(xs, x, r, 0, n);
                    let (mu, scale) = moments(x, eps);
                    start(out, b, 0, 0);
                    center(out, x, w, mu, scale);
                    store(y, r, 0, out);
                    store(mean, r, 0, &[mu]);
                    store(rstd, r, 0, &[scale]);
                }
            });
        });
    }

    fn layer_norm_bwd(
        &self,
        dx: Tensor,
        dw: Tensor,
        db: Option<Tensor>,
        dy: Tensor,
        x: Tensor,
        w: Tensor,
        mean: Tensor,
        rstd: Tensor,
        plus: Option<Tensor>,
        scratch: Tensor,
    ) {
        let (t, n) = (x.rows(), x.cols());
        shape!(dx, t, n);
        shape!(dy, t, n);
        shape!(mean, t, 1);
        shape!(rstd, t, 1);
        shape!(w, 1, n);
        shape!(dw, 1, n);
        let partials = bwd_scratch_rows(t);
        assert!(scratch.rows() >= 2 * partials && scratch.cols() == n, "scratch {scratch:?} for {t} rows");
        self.blocks(t, ROWS_PER_PARTIAL, |rows| {
            let partial = rows.start / ROWS_PER_PARTIAL;
            // SAFETY: one task a partial.
            let dw = unsafe { slice_mut::<f32>(scratch, partial, 0, n) };
            // SAFETY: as above.
            let db = unsafe { slice_mut::<f32>(scratch, partials + partial, 0, n) };
            dw.fill(0.0);
            db.fill(0.0);
            with_buffers([n, n, n, n, 2], |[xs, ws, dys, out, stats]| {
                let w = view(ws, w, 0, 0, n);
                for r in rows {
                    load(&mut stats[..1], mean, r, 0);
                    load(&mut stats[1..], rstd, r, 0);
                    let dy = view(dys, dy, r, 0, n);
                    start(out, plus, r, 0);
                    center_backward(out, dw, dy, view(xs, x, r, 0, n), w, stats[0], stats[1]);
                    simd::add(db, dy);
                    store(dx, r, 0, out);
                }
            });
        });
        add_partials(dw, scratch, 0..partials);
        if let Some(db) = db {
            shape!(db, 1, n);
            add_partials(db, scratch, partials..2 * partials);
        }
    }
}
