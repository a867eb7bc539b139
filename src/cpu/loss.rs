//! The vocabulary product with cross-entropy or log-probabilities, a chunk of rows at a time.

use super::rows::{floats, indices, shape};
use super::simd::vectorized;
use super::{Cpu, simd};
use crate::ops::loss::{Loss, NO_TARGET};
use crate::ops::matmul::{Epilogue, Form, Matmul};
use crate::tensor::{DType, Tensor};

vectorized! {
    /// Sum of `exp(x_i - shift)`: f32 lanes, f64 over blocks of 1024.
    fn sum_exp(x: &[f32], shift: f32) -> f64 {
        let mut total = 0f64;
        for block in x.chunks(1024) {
            total += f64::from(simd::reduce([block], |[x], s| s + simd::exp(x - shift)));
        }
        total
    }
}

/// `log(sum(exp(x)))` with the largest element taken out first.
fn log_sum_exp(x: &[f32]) -> f64 {
    let top = simd::max(x);
    f64::from(top) + libm::log(sum_exp(x, top))
}

vectorized! {
    /// Rounds to bf16, in the first half of `x`.
    fn halve(x: &mut [f32]) {
        const BLOCK: usize = 64;
        let n = x.len();
        for first in (0..n).step_by(BLOCK) {
            let len = BLOCK.min(n - first);
            let (mut block, mut halves) = ([0f32; BLOCK], [0u16; BLOCK]);
            block[..len].copy_from_slice(&x[first..][..len]);
            for (y, x) in halves.iter_mut().zip(&block) {
                *y = simd::bf16(*x);
            }
            // Behind what is read: a row's values are halved from the first to the last.
            bytemuck::cast_slice_mut::<_, u16>(x)[first..][..len].copy_from_slice(&halves[..len]);
        }
    }
}

/// `f(chunk, logits)` for the rows of `x` in chunks as large as `scratch` holds: `logits [chunk.len(), v]` dense.
fn chunks(
    cpu: &Cpu,
    x: Tensor,
    w: Tensor,
    scratch: Tensor,
    mut f: impl FnMut(std::ops::Range<usize>, Tensor),
) {
    let v = w.rows();
    assert!(
        scratch.dtype() == DType::F32 && scratch.cols() == v && scratch.rows() > 0,
        "scratch {scratch:?}"
    );
    for start in (0..x.rows()).step_by(scratch.rows()) {
        let rows = start..x.rows().min(start + scratch.rows());
        let logits = scratch.slice_rows(0..rows.len());
        cpu.matmul(logits, x.slice_rows(rows.clone()), w, Form::NT, Epilogue::NONE);
        f(rows, logits);
    }
}

impl Loss for Cpu {
    fn linear_cross_entropy(
        &self,
        loss: Tensor,
        dx: Tensor,
        dw: Tensor,
        x: Tensor,
        w: Tensor,
        targets: Tensor,
        scale: Tensor,
        scratch: Tensor,
    ) {
        let (r, v) = (x.rows(), w.rows());
        shape!(loss, 1, r);
        shape!(targets, 1, r);
        shape!(dx, r, x.cols());
        shape!(dw, v, x.cols());
        shape!(scale, 1, 1);
        let (targets, scale) = (indices(targets), floats(scale)[0]);
        let losses = floats(loss).as_mut_ptr() as usize;
        chunks(self, x, w, scratch, |rows, logits| {
            let place = floats(logits).as_mut_ptr() as usize;
            // In bf16 every row's gradients take the first half of its logits.
            let halved = w.dtype() == DType::BF16;
            let dlogits = if halved {
                Tensor::new(place, DType::BF16, rows.len(), 2 * v).slice_cols(0..v)
            } else {
                logits
            };
            self.each(rows.len(), |i| {
                // SAFETY: one task a row of the chunk and of the losses, both exclusively this op's.
                let row = unsafe { std::slice::from_raw_parts_mut((place as *mut f32).add(i * v), v) };
                // SAFETY: as above.
                let loss = unsafe { &mut *(losses as *mut f32).add(rows.start + i) };
                if targets[rows.start + i] == NO_TARGET {
                    *loss = 0.0;
                    row.fill(0.0);
                    return;
                }
                let target = targets[rows.start + i] as usize;
                let (top, logit) = (simd::max(row), f64::from(row[target]));
                let total = simd::exp_sum(row, top);
                *loss = (f64::from(top) + libm::log(total) - logit) as f32;
                simd::scale(row, (f64::from(scale) / total) as f32);
                row[target] -= scale;
                if halved {
                    halve(row);
                }
            });
            self.matmul(dw, dlogits, x.slice_rows(rows.clone()), Form::TN, Epilogue::add(None, Some(dw)));
            self.matmul(dx.slice_rows(rows), dlogits, w, Form::NN, Epilogue::NONE); // last: dx may be x
        });
    }

    fn linear_logprob(
        &self,
        logprob: Tensor,
        best: Tensor,
        x: Tensor,
        w: Tensor,
        rows: Tensor,
        targets: Tensor,
        scratch: Tensor,
    ) {
        let (n, v) = (rows.cols(), w.rows());
        shape!(logprob, 1, n);
        shape!(best, 1, n);
        shape!(targets, 1, n);
        let (asked, targets) = (indices(rows), indices(targets));
        let out = floats(logprob).as_mut_ptr() as usize;
        assert_eq!(best.dtype(), DType::U32);
        chunks(self, x, w, scratch, |rows, logits| {
            let logits = floats(logits);
            self.each(rows.len(), |i| {
                let row = &logits[i * v..][..v];
                let from = asked.partition_point(|&a| (a as usize) < rows.start + i);
                let to = asked.partition_point(|&a| (a as usize) <= rows.start + i);
                if from == to {
                    return;
                }
                let lse = log_sum_exp(row);
                let top = simd::max(row);
                let first = row.iter().position(|&x| x == top).unwrap_or(0);
                for j in from..to {
                    let value = match targets[j] {
                        NO_TARGET => 0.0,
                        target => (f64::from(row[target as usize]) - lse) as f32,
                    };
                    // SAFETY: the asks of a row belong to its task.
                    unsafe {
                        *(out as *mut f32).add(j) = value;
                        *(best.addr() as *mut u32).add(j) = first as u32;
                    }
                }
            });
        });
    }
}
