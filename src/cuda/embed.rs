//! Token embedding: a gather, and sums over the runs of equal tokens.

use super::Cuda;
use super::launch::{Kernel, Launch, shape};
use super::rows::{THREADS, blocks, int, lanes, stride};
use crate::ops::embed::Embed;
use crate::tensor::Tensor;

const BWD: Kernel = Kernel {
    name: "embed_bwd",
    variants: &["f32_f32", "f32_bf16", "f32_f16", "bf16_bf16", "f16_f16"],
    threads: THREADS,
    params: "dtable: *mut T, dtable_stride: i64, dx: *const U, dx_stride: i64, tokens: *const u32, order: *const u32, count: i32, cols: i32",
};
pub(super) const KERNELS: &[Kernel] = &[BWD];

impl Embed for Cuda {
    fn embed_fwd(&self, x: Tensor, table: Tensor, tokens: Tensor) {
        shape!(x, tokens.cols(), table.cols());
        self.gather(x, table, tokens);
    }

    fn embed_bwd(&self, dtable: Tensor, dx: Tensor, tokens: Tensor, order: Tensor) {
        let t = tokens.cols();
        shape!(dx, t, dtable.cols());
        shape!(order, 1, t);
        if dx.is_empty() {
            return;
        }
        // A warp a place in the order and 32 chunks of columns; those inside a run leave at once.
        let across = dx.cols().div_ceil(32 * lanes(dx.dtype()));
        let how = Launch::new(blocks(t * across, THREADS as usize / 32), THREADS);
        self.launch(
            &BWD,
            &format!("{}_{}", dtable.dtype().name(), dx.dtype().name()),
            how,
            &[
                dtable.into(),
                stride(dtable).into(),
                dx.into(),
                stride(dx).into(),
                tokens.into(),
                order.into(),
                int(t).into(),
                int(dx.cols()).into(),
            ],
        );
    }
}
