//! Conversions, gathers, placements, scatters, sums over rows.

use super::Cuda;
use super::launch::{Arg, DTYPES, Kernel, Launch, shape};
use super::rows::{THREADS, blocks, chunked, flat, int, lanes, stride};
use crate::ops::elem::Elem;
use crate::tensor::{DType, Tensor};

/// Elements a thread converts at a time.
const CONVERTED: usize = 8;
/// Chunks of a row that a lane scatters into.
const SCATTERED: usize = 4;
/// Rows summed into one partial: so many or a multiple.
const ROWS: usize = 64;
/// Partials of a sum at most: of more rows, each takes more.
const PARTIALS: usize = 256;
/// Columns summed at a time: the partials of so many fill the workspace.
const COLUMNS: usize = super::WORKSPACE / (PARTIALS * size_of::<f32>());
/// Threads of a block of `add_partials`, and the columns it adds.
const ADDERS: (u32, usize) = (512, 32);

const CONVERT: Kernel = Kernel {
    name: "convert",
    variants: &[
        "f32_f32",
        "f32_bf16",
        "f32_f16",
        "bf16_f32",
        "bf16_bf16",
        "bf16_f16",
        "f16_f32",
        "f16_bf16",
        "f16_f16",
    ],
    threads: THREADS,
    params: "y: *mut T, y_stride: i64, x: *const U, x_stride: i64, rows: i32, cols: i64",
};
const GATHER: Kernel = Kernel {
    name: "gather_rows",
    variants: DTYPES,
    threads: THREADS,
    params: "y: *mut T, y_stride: i64, x: *const T, x_stride: i64, index: *const u32, rows: i32, cols: i32",
};
const PUT: Kernel = Kernel {
    name: "put_rows",
    variants: DTYPES,
    threads: THREADS,
    params: "y: *mut T, y_stride: i64, x: *const T, x_stride: i64, index: *const u32, rows: i32, cols: i32",
};
const SCATTER: Kernel = Kernel {
    name: "scatter_rows",
    variants: DTYPES,
    threads: THREADS,
    params: "dx: *mut T, dx_stride: i64, dy: *const T, dy_stride: i64, index: *const u32, rows: i32, count: i32, cols: i32",
};
const SUM: Kernel = Kernel {
    name: "sum_rows",
    variants: DTYPES,
    threads: THREADS,
    params: "partials: *mut f32, dy: *const T, dy_stride: i64, rows: i32, cols: i32, chunk: i32",
};
const ADD: Kernel = Kernel {
    name: "add_partials",
    variants: DTYPES,
    threads: ADDERS.0,
    params: "out: *mut T, partials: *const f32, count: i32, cols: i32",
};
pub(super) const KERNELS: &[Kernel] = &[CONVERT, GATHER, PUT, SCATTER, SUM, ADD];

/// Rows summed into each partial of `rows`: by their number alone, so that a sum's order is the same on every GPU.
fn rows_a_partial(rows: usize) -> usize {
    rows.div_ceil(PARTIALS).next_multiple_of(ROWS)
}

/// Asserts that `index` is what indices are.
fn indices(index: Tensor) {
    assert!(index.dtype() == DType::U32 && index.is_dense(), "indices are dense u32: {index:?}");
}

impl Cuda {
    /// `out += ` the sum of `count` rows of f32 partials at `partials`, in order.
    pub(super) fn add_partials(&self, out: Tensor, partials: u64, count: usize) {
        let (threads, columns) = ADDERS;
        let how = Launch::new(blocks(out.cols(), columns), threads);
        let partials = Arg::Ptr { addr: partials, dtype: Some(DType::F32) };
        self.launch(
            &ADD,
            out.dtype().name(),
            how,
            &[out.into(), partials, int(count).into(), int(out.cols()).into()],
        );
    }

    /// `y[i] = x[index[i]]`, all shapes known to be right.
    pub(super) fn gather(&self, y: Tensor, x: Tensor, index: Tensor) {
        self.move_rows(&GATHER, y, x, index);
    }

    /// Launches `kernel` over the rows of `index`.
    fn move_rows(&self, kernel: &'static Kernel, y: Tensor, x: Tensor, index: Tensor) {
        indices(index);
        let (rows, cols) = (index.cols(), y.cols());
        if rows == 0 || cols == 0 {
            return;
        }
        let how = Launch::new(chunked(rows, cols, lanes(y.dtype()), 4), THREADS);
        self.launch(
            kernel,
            y.dtype().name(),
            how,
            &[
                y.into(),
                stride(y).into(),
                x.into(),
                stride(x).into(),
                index.into(),
                int(rows).into(),
                int(cols).into(),
            ],
        );
    }
}

impl Elem for Cuda {
    fn convert(&self, y: Tensor, x: Tensor) {
        shape!(y, x.rows(), x.cols());
        let variant = format!("{}_{}", y.dtype().name(), x.dtype().name());
        let chunks = if x.dtype() == DType::F32 { 2 } else { 4 };
        let [y, x] = flat([y, x]);
        // Of one long row the last few elements go alone, so that the rest is a whole number of chunks.
        let whole = if x.rows() == 1 { x.cols() / CONVERTED * CONVERTED } else { x.cols() };
        for range in [0..whole, whole..x.cols()] {
            let [y, x] = [y, x].map(|t| t.slice_cols(range.clone()));
            if x.is_empty() {
                continue;
            }
            let how = Launch::new(chunked(x.rows(), x.cols(), CONVERTED, chunks), THREADS);
            // One row has no distance to the next; 0 is even.
            let stride = |t: Tensor| if t.rows() == 1 { 0i64 } else { stride(t) };
            self.launch(
                &CONVERT,
                &variant,
                how,
                &[
                    y.into(),
                    stride(y).into(),
                    x.into(),
                    stride(x).into(),
                    int(x.rows()).into(),
                    (x.cols() as i64).into(),
                ],
            );
        }
    }

    fn gather_rows(&self, y: Tensor, x: Tensor, index: Tensor) {
        shape!(y, index.cols(), x.cols());
        self.gather(y, x, index);
    }

    fn put_rows(&self, y: Tensor, x: Tensor, index: Tensor) {
        shape!(x, index.cols(), y.cols());
        self.move_rows(&PUT, y, x, index);
    }

    fn scatter_rows(&self, dx: Tensor, dy: Tensor, index: Tensor) {
        shape!(dy, index.cols(), dx.cols());
        indices(index);
        if dx.is_empty() {
            return;
        }
        let across = dx.cols().div_ceil(SCATTERED * 32 * lanes(dx.dtype()));
        let how = Launch::new(blocks(dx.rows() * across, THREADS as usize / 32), THREADS);
        self.launch(
            &SCATTER,
            dx.dtype().name(),
            how,
            &[
                dx.into(),
                stride(dx).into(),
                dy.into(),
                stride(dy).into(),
                index.into(),
                int(dx.rows()).into(),
                int(index.cols()).into(),
                int(dx.cols()).into(),
            ],
        );
    }

    fn sum_rows(&self, db: Tensor, dy: Tensor) {
        shape!(db, 1, dy.cols());
        if dy.is_empty() {
            return;
        }
        let (t, rows) = (dy.rows(), rows_a_partial(dy.rows()));
        let (partials, _) = self.workspace();
        for start in (0..dy.cols()).step_by(COLUMNS) {
            let range = start..dy.cols().min(start + COLUMNS);
            let [db, dy] = [db, dy].map(|x| x.slice_cols(range.clone()));
            let across = dy.cols().div_ceil(32 * lanes(dy.dtype()));
            let how = Launch::new(blocks(t.div_ceil(rows) * across, 1), THREADS);
            self.launch(
                &SUM,
                dy.dtype().name(),
                how,
                &[
                    Arg::Ptr { addr: partials, dtype: Some(DType::F32) },
                    dy.into(),
                    stride(dy).into(),
                    int(t).into(),
                    int(dy.cols()).into(),
                    int(rows).into(),
                ],
            );
            self.add_partials(db, partials, t.div_ceil(rows));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partials_fit_the_workspace() {
        for rows in [1, 63, 64, 65, 16384, 16385, 100_000, 3_000_000] {
            let each = rows_a_partial(rows);
            assert!(
                each >= ROWS && each.is_multiple_of(ROWS) && rows.div_ceil(each) <= PARTIALS,
                "{rows}: {each}"
            );
            assert!(rows.div_ceil(each) * COLUMNS * 4 <= super::super::WORKSPACE);
        }
        assert_eq!((rows_a_partial(16384), rows_a_partial(16385)), (64, 128));
    }
}
