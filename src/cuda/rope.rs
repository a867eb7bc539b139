//! Rotary position embedding, in place.

use super::Cuda;
use super::launch::{DTYPES, Kernel, Launch, shape};
use super::rows::{THREADS, blocks, int, lanes, stride};
use crate::ops::rope::Rope;
use crate::tensor::Tensor;

/// Heads a thread rotates by the same angles.
const HEADS: usize = 4;

const ROPE: Kernel = Kernel {
    name: "rope",
    variants: DTYPES,
    threads: THREADS,
    params: "x: *mut T, x_stride: i64, positions: *const u32, table: *const f32, table_stride: i64, rows: i32, heads: i32, k: i32, sign: f32",
};
pub(super) const KERNELS: &[Kernel] = &[ROPE];

impl Rope for Cuda {
    fn rope(&self, x: Tensor, positions: Tensor, table: Tensor, inverse: bool) {
        let k = table.cols();
        assert_eq!(x.cols() % k, 0, "{x:?} in heads of {k}");
        shape!(positions, 1, x.rows());
        if x.is_empty() {
            return;
        }
        let heads = x.cols() / k;
        let pieces = x.rows() * heads.div_ceil(HEADS) * (k / 2).div_ceil(lanes(x.dtype()));
        self.launch(
            &ROPE,
            x.dtype().name(),
            Launch::new(blocks(pieces, THREADS as usize), THREADS),
            &[
                x.into(),
                stride(x).into(),
                positions.into(),
                table.into(),
                stride(table).into(),
                int(x.rows()).into(),
                int(heads).into(),
                int(k).into(),
                if inverse { -1.0f32 } else { 1.0 }.into(),
            ],
        );
    }
}
