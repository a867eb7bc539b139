//! RMSNorm and LayerNorm: the tile for a width, and the partial sums of the parameters' gradients.

use super::Cuda;
use super::launch::{Arg, DTYPES, Kernel, Launch, shape};
use super::rows::{THREADS, blocks, int, lanes, stride};
use crate::ops::norm::{Norm, ROWS_PER_PARTIAL, bwd_scratch_rows};
use crate::tensor::{DType, Tensor};

macro_rules! kernel {
    ($name:literal, $params:expr) => {
        Kernel { name: $name, variants: DTYPES, threads: THREADS, params: $params }
    };
}

const RMS_FWD: &str = "y: *mut T, y_stride: i64, rstd: *mut f32, rstd_stride: i64, x: *const T, x_stride: i64, w: *const T, rows: i32, groups: i32, n: i32, eps: f32";
const RMS_BWD: &str = "dx: *mut T, dx_stride: i64, dw: *mut f32, dy: *const T, dy_stride: i64, x: *const T, x_stride: i64, w: *const T, rstd: *const f32, rstd_stride: i64, plus: *const T, plus_stride: i64, rows: i32, groups: i32, n: i32, chunk: i32";
const LAYER_FWD: &str = "y: *mut T, y_stride: i64, mean: *mut f32, mean_stride: i64, rstd: *mut f32, rstd_stride: i64, x: *const T, x_stride: i64, w: *const T, b: *const T, rows: i32, n: i32, eps: f32";
const LAYER_BWD: &str = "dx: *mut T, dx_stride: i64, dw: *mut f32, db: *mut f32, dy: *const T, dy_stride: i64, x: *const T, x_stride: i64, w: *const T, mean: *const f32, mean_stride: i64, rstd: *const f32, rstd_stride: i64, plus: *const T, plus_stride: i64, rows: i32, n: i32, chunk: i32";

/// Forward and backward kernel of each tile: RMSNorm's four, then LayerNorm's three.
pub(super) static KERNELS: [Kernel; 14] = [
    kernel!("rms_norm_fwd_half", RMS_FWD),
    kernel!("rms_norm_bwd_half", RMS_BWD),
    kernel!("rms_norm_fwd_warp", RMS_FWD),
    kernel!("rms_norm_bwd_warp", RMS_BWD),
    kernel!("rms_norm_fwd_block", RMS_FWD),
    kernel!("rms_norm_bwd_block", RMS_BWD),
    kernel!("rms_norm_fwd_loop", RMS_FWD),
    kernel!("rms_norm_bwd_loop", RMS_BWD),
    kernel!("layer_norm_fwd_warp", LAYER_FWD),
    kernel!("layer_norm_bwd_warp", LAYER_BWD),
    kernel!("layer_norm_fwd_block", LAYER_FWD),
    kernel!("layer_norm_bwd_block", LAYER_BWD),
    kernel!("layer_norm_fwd_loop", LAYER_FWD),
    kernel!("layer_norm_bwd_loop", LAYER_BWD),
];

/// A kernel pair of `kernels/norm.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    /// Place of the forward kernel in [`KERNELS`]; the backward kernel follows it.
    first: usize,
    /// Vectors (groups of rows) that a block of the forward kernel takes.
    vectors: usize,
}

impl Tile {
    /// The tile for vectors of `n` elements, by nothing else: so a row's bits do not depend on its company.
    fn new(n: usize, dtype: DType, layer: bool) -> Self {
        let chunks = n.div_ceil(lanes(dtype));
        let tile = |first, vectors| Self { first, vectors };
        match layer {
            false if chunks <= 16 => tile(0, 64),
            false if chunks <= 4 * 32 => tile(2, 8),
            false if chunks <= 4 * 256 => tile(4, 1),
            false => tile(6, 1),
            true if chunks <= 4 * 32 => tile(8, 8),
            true if chunks <= 2 * 256 => tile(10, 1),
            true => tile(12, 1),
        }
    }

    fn forward(self) -> &'static Kernel {
        &KERNELS[self.first]
    }

    fn backward(self) -> &'static Kernel {
        &KERNELS[self.first + 1]
    }
}

/// Blocks that the backward pass of `t` rows should have at least, to keep a GPU busy.
const BUSY: usize = 512;

/// Rows whose sums make one partial: as the contract has it where there are enough of them, fewer of a short batch.
fn rows_a_partial(t: usize) -> usize {
    t.div_ceil(BUSY).next_power_of_two().clamp(8, ROWS_PER_PARTIAL)
}

/// Where the backward pass puts the partial sums of `sums` parameters: rows of each, their number, the address.
struct Partials {
    rows: usize,
    count: usize,
    addr: u64,
}

impl Cuda {
    /// Short batches have more partials than the scratch has rows; they are small enough for the workspace.
    fn partials(&self, t: usize, n: usize, sums: usize, scratch: Tensor) -> Partials {
        let wanted = sums * bwd_scratch_rows(t);
        assert!(
            scratch.rows() >= wanted
                && scratch.cols() == n
                && scratch.dtype() == DType::F32
                && scratch.is_dense(),
            "scratch {scratch:?} for {t} rows: it must be [{wanted}, {n}] f32"
        );
        let rows = rows_a_partial(t);
        let (workspace, bytes) = self.workspace();
        if rows < ROWS_PER_PARTIAL && sums * t.div_ceil(rows) * n * size_of::<f32>() <= bytes {
            return Partials { rows, count: t.div_ceil(rows), addr: workspace };
        }
        Partials { rows: ROWS_PER_PARTIAL, count: bwd_scratch_rows(t), addr: scratch.addr() as u64 }
    }
}

/// An f32 address.
fn floats(addr: u64) -> Arg {
    Arg::Ptr { addr, dtype: Some(DType::F32) }
}

impl Norm for Cuda {
    fn rms_norm_fwd(&self, y: Tensor, rstd: Tensor, x: Tensor, w: Tensor, eps: f32) {
        let (t, n) = (x.rows(), w.cols());
        let groups = x.cols() / n;
        shape!(w, 1, n);
        shape!(x, y.rows(), groups * n);
        shape!(y, x.rows(), groups * n);
        shape!(rstd, x.rows(), groups);
        if x.is_empty() {
            return;
        }
        let tile = Tile::new(n, x.dtype(), false);
        self.launch(
            tile.forward(),
            x.dtype().name(),
            Launch::new(blocks(t * groups, tile.vectors), THREADS),
            &[
                y.into(),
                stride(y).into(),
                rstd.into(),
                stride(rstd).into(),
                x.into(),
                stride(x).into(),
                w.into(),
                int(t).into(),
                int(groups).into(),
                int(n).into(),
                eps.into(),
            ],
        );
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
        if let Some(plus) = plus {
            shape!(plus, t, groups * n);
        }
        if x.is_empty() {
            return;
        }
        let partials = self.partials(t, n, 1, scratch);
        self.launch(
            Tile::new(n, x.dtype(), false).backward(),
            x.dtype().name(),
            Launch::new(blocks(partials.count, 1), THREADS),
            &[
                dx.into(),
                stride(dx).into(),
                floats(partials.addr),
                dy.into(),
                stride(dy).into(),
                x.into(),
                stride(x).into(),
                w.into(),
                rstd.into(),
                stride(rstd).into(),
                plus.into(),
                plus.map_or(0, stride).into(),
                int(t).into(),
                int(groups).into(),
                int(n).into(),
                int(partials.rows).into(),
            ],
        );
        self.add_partials(dw, partials.addr, partials.count);
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
        if x.is_empty() {
            return;
        }
        let tile = Tile::new(n, x.dtype(), true);
        self.launch(
            tile.forward(),
            x.dtype().name(),
            Launch::new(blocks(t, tile.vectors), THREADS),
            &[
                y.into(),
                stride(y).into(),
                mean.into(),
                stride(mean).into(),
                rstd.into(),
                stride(rstd).into(),
                x.into(),
                stride(x).into(),
                w.into(),
                b.into(),
                int(t).into(),
                int(n).into(),
                eps.into(),
            ],
        );
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
        if let Some(plus) = plus {
            shape!(plus, t, n);
        }
        if x.is_empty() {
            return;
        }
        let partials = self.partials(t, n, 2, scratch);
        let of_bias = partials.addr + (partials.count * n * size_of::<f32>()) as u64;
        self.launch(
            Tile::new(n, x.dtype(), true).backward(),
            x.dtype().name(),
            Launch::new(blocks(partials.count, 1), THREADS),
            &[
                dx.into(),
                stride(dx).into(),
                floats(partials.addr),
                floats(of_bias),
                dy.into(),
                stride(dy).into(),
                x.into(),
                stride(x).into(),
                w.into(),
                mean.into(),
                stride(mean).into(),
                rstd.into(),
                stride(rstd).into(),
                plus.into(),
                plus.map_or(0, stride).into(),
                int(t).into(),
                int(n).into(),
                int(partials.rows).into(),
            ],
        );
        self.add_partials(dw, partials.addr, partials.count);
        if let Some(db) = db {
            shape!(db, 1, n);
            self.add_partials(db, of_bias, partials.count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_by_width() {
        let rms = |n, dtype| Tile::new(n, dtype, false).forward().name;
        let names = [64, 128, 129, 1024, 1025, 8192, 8193].map(|n| rms(n, DType::BF16));
        let [half, warp, block, long] =
            ["half", "warp", "block", "loop"].map(|tile| format!("rms_norm_fwd_{tile}"));
        assert_eq!(names, [&half, &half, &warp, &warp, &block, &block, &long].map(String::as_str));
        assert_eq!((rms(64, DType::F32), rms(128, DType::F32)), (half.as_str(), warp.as_str()));
        let layer = |n| Tile::new(n, DType::F16, true).backward().name;
        assert_eq!(
            [1, 1024, 1025, 4096, 4097].map(layer),
            ["warp", "warp", "block", "block", "loop"].map(|tile| format!("layer_norm_bwd_{tile}"))
        );
    }

    #[test]
    fn short_batches_have_many_partials() {
        assert_eq!(
            [1, 4096, 4097, 8192, 16384, 16385, 1 << 20].map(rows_a_partial),
            [8, 8, 16, 16, 32, 64, 64]
        );
    }
}
