//! Cross-entropy and log-probabilities over the vocabulary, a chunk of rows at a time.
//!
//! For 16-bit operands that tensor cores can read, the product keeps statistics of each row's logits, and for the gradient
//! their exponentials in 16 bits; everything else goes through f32 logits. Which of the two it is does not depend on the
//! number of rows, and rows meet nowhere: chunks differ in nothing but what fits into memory.

use super::Cuda;
use super::launch::{Arg, HALVES, Kernel, Launch, shape};
use super::matmul::{Tile, blocks, in_units, int};
use crate::ops::loss::Loss;
use crate::ops::matmul::{Epilogue, Form, Matmul};
use crate::tensor::{DType, Tensor};
use std::ops::Range;

/// Columns of a statistic, as in `loss.cu`.
const GROUP: usize = 64;

/// Threads of the kernels that take one row each.
const ROW_THREADS: u32 = 256;

/// Whether the tensor-core kernels take this product. From 16 columns on, a row of 16-bit exponentials and its padding fit
/// where one of f32 logits does.
fn grouped(x: Tensor, w: Tensor) -> bool {
    x.dtype() != DType::F32 && x.dtype() == w.dtype() && in_units(x) && in_units(w) && w.rows() >= 16
}

/// Chunks of `0..rows`, none above `most` and all but the last of the same size: whole tiles where there are several.
fn chunks(rows: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    assert!(most > 0, "no room for a single row");
    let tile = Tile::Large.size().0;
    let even = rows.div_ceil(rows.div_ceil(most).max(1)).max(1);
    let size = if even.next_multiple_of(tile) <= most { even.next_multiple_of(tile) } else { even };
    (0..rows).step_by(size).map(move |start| start..rows.min(start + size))
}

/// What `vocabulary_fwd` leaves of a chunk of rows, in the workspace.
struct Statistics {
    groups: Arg,
    target_logits: Arg,
    /// Asked for by scores alone.
    best: Arg,
}

impl Statistics {
    /// Bytes for one row.
    fn bytes(v: usize, best: bool) -> usize {
        v.div_ceil(GROUP) * if best { 12 } else { 8 } + 4
    }

    fn at(addr: u64, rows: usize, v: usize, best: bool) -> Self {
        let (groups, rows) = ((rows * v.div_ceil(GROUP)) as u64, rows as u64);
        let part = |offset| Arg::Ptr { addr: addr + offset, dtype: None };
        let best = if best { part(8 * groups + 4 * rows) } else { None.into() };
        Self { groups: part(0), target_logits: part(8 * groups), best }
    }
}

/// `[rows, v]` of a 16-bit dtype with rows on 16-byte boundaries, as many as fit into f32 scratch.
fn exps(scratch: Tensor, dtype: DType, v: usize) -> Tensor {
    let (addr, stride) = (scratch.addr().next_multiple_of(16), v.next_multiple_of(8));
    let rows = (scratch.addr() + scratch.bytes() - addr) / (stride * dtype.size());
    Tensor::new(addr, dtype, rows, stride).slice_cols(0..v)
}

impl Cuda {
    /// Statistics of the asks `asks`: of row `rows[i]` of `x` (without a list, `i`), and in `exps` their exponentials.
    fn vocabulary(
        &self,
        (keep, exps): (&Statistics, Option<Tensor>),
        x: Tensor,
        w: Tensor,
        rows: Option<Tensor>,
        targets: Tensor,
        asks: &Range<usize>,
    ) {
        let v = w.rows();
        let tile = Tile::Large;
        let how = Launch {
            grid: [blocks(tile.count(asks.len(), v)), 1, 1],
            block: VOCABULARY.threads,
            shared: tile.shared() as u32,
        };
        let stride = |x: Tensor| Arg::I64(x.stride() as i64);
        let args = [
            exps.into(),
            exps.map_or(Arg::I64(0), stride),
            keep.groups,
            keep.best,
            keep.target_logits,
            x.into(),
            stride(x),
            rows.into(),
            w.into(),
            stride(w),
            targets.into(),
            int(asks.start),
            int(asks.len()),
            int(v),
            int(x.cols()),
        ];
        self.launch(&VOCABULARY, x.dtype().name(), how, &args);
    }
}

/// f32 logits of the rows `rows` of `x`, in the first rows of `scratch`.
fn logits(device: &Cuda, scratch: Tensor, x: Tensor, w: Tensor, rows: &Range<usize>) -> Tensor {
    let logits = scratch.slice_rows(0..rows.len());
    device.matmul(logits, x.slice_rows(rows.clone()), w, Form::NT, Epilogue::NONE);
    logits
}

fn check_scratch(scratch: Tensor, v: usize) {
    assert!(
        scratch.dtype() == DType::F32 && scratch.cols() == v && scratch.rows() > 0 && scratch.is_dense(),
        "scratch {scratch:?} for {v} logits"
    );
}

impl Loss for Cuda {
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
        check_scratch(scratch, v);
        let gradients = |dlogits: Tensor, rows: Range<usize>| {
            self.matmul(dw, dlogits, x.slice_rows(rows.clone()), Form::TN, Epilogue::add(None, Some(dw)));
            self.matmul(dx.slice_rows(rows), dlogits, w, Form::NN, Epilogue::NONE); // last: dx may be x
        };
        if grouped(x, w) {
            let exps = exps(scratch, x.dtype(), v);
            let (addr, bytes) = self.workspace();
            for rows in chunks(r, exps.rows().min(bytes / Statistics::bytes(v, false))) {
                let (exps, keep) =
                    (exps.slice_rows(0..rows.len()), Statistics::at(addr, rows.len(), v, false));
                self.vocabulary((&keep, Some(exps)), x, w, None, targets, &rows);
                let args = [
                    exps.into(),
                    Arg::I64(exps.stride() as i64),
                    loss.into(),
                    keep.groups,
                    keep.target_logits,
                    targets.into(),
                    scale.into(),
                    int(rows.start),
                    int(v),
                ];
                let how = Launch::new(blocks(rows.len()), ROW_THREADS);
                self.launch(&CROSS_ENTROPY, x.dtype().name(), how, &args);
                gradients(exps, rows);
            }
        } else {
            for rows in chunks(r, scratch.rows()) {
                let logits = logits(self, scratch, x, w, &rows);
                let args =
                    [logits.into(), loss.into(), targets.into(), scale.into(), int(rows.start), int(v)];
                self.launch(&CROSS_ENTROPY_PLAIN, "", Launch::new(blocks(rows.len()), ROW_THREADS), &args);
                gradients(logits, rows);
            }
        }
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
        shape!(rows, 1, n);
        shape!(logprob, 1, n);
        shape!(best, 1, n);
        shape!(targets, 1, n);
        check_scratch(scratch, v);
        if n == 0 {
            return;
        }
        if grouped(x, w) {
            let (addr, bytes) = self.workspace();
            for asks in chunks(n, bytes / Statistics::bytes(v, true)) {
                let keep = Statistics::at(addr, asks.len(), v, true);
                self.vocabulary((&keep, None), x, w, Some(rows), targets, &asks);
                let args = [
                    logprob.into(),
                    best.into(),
                    keep.groups,
                    keep.best,
                    keep.target_logits,
                    targets.into(),
                    int(asks.start),
                    int(v),
                ];
                self.launch(&LOGPROB_GROUPS, "", Launch::new(blocks(asks.len()), ROW_THREADS), &args);
            }
        } else {
            for part in chunks(x.rows(), scratch.rows()) {
                let logits = logits(self, scratch, x, w, &part);
                let args = [
                    logprob.into(),
                    best.into(),
                    logits.into(),
                    rows.into(),
                    targets.into(),
                    int(part.start),
                    int(part.len()),
                    int(v),
                ];
                self.launch(&LOGPROB_PLAIN, "", Launch::new(blocks(n), ROW_THREADS), &args);
            }
        }
    }
}

const VOCABULARY: Kernel = Kernel {
    name: "vocabulary_fwd",
    variants: HALVES,
    threads: 256,
    params: "exps: *mut T, exps_stride: i64, groups: *mut f32, best: *mut u32, target_logits: *mut f32, x: *const T, \
             x_stride: i64, rows: *const u32, w: *const T, w_stride: i64, targets: *const u32, first: i32, count: i32, \
             v: i32, d: i32",
};

const CROSS_ENTROPY: Kernel = Kernel {
    name: "cross_entropy_bwd",
    variants: HALVES,
    threads: ROW_THREADS,
    params: "exps: *mut T, exps_stride: i64, loss: *mut f32, groups: *const f32, target_logits: *const f32, \
             targets: *const u32, scale: *const f32, first: i32, v: i32",
};

const CROSS_ENTROPY_PLAIN: Kernel = Kernel {
    name: "cross_entropy_plain",
    variants: &[""],
    threads: ROW_THREADS,
    params: "logits: *mut f32, loss: *mut f32, targets: *const u32, scale: *const f32, first: i32, v: i32",
};

const LOGPROB_GROUPS: Kernel = Kernel {
    name: "logprob_groups",
    variants: &[""],
    threads: ROW_THREADS,
    params: "logprob: *mut f32, best: *mut u32, groups: *const f32, group_best: *const u32, target_logits: *const f32, \
             targets: *const u32, first: i32, v: i32",
};

const LOGPROB_PLAIN: Kernel = Kernel {
    name: "logprob_plain",
    variants: &[""],
    threads: ROW_THREADS,
    params: "logprob: *mut f32, best: *mut u32, logits: *const f32, rows: *const u32, targets: *const u32, start: i32, \
             count: i32, v: i32",
};

pub(super) const KERNELS: &[Kernel] =
    &[VOCABULARY, CROSS_ENTROPY, CROSS_ENTROPY_PLAIN, LOGPROB_GROUPS, LOGPROB_PLAIN];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_all_rows_and_fit() {
        for (rows, most) in [(0, 1), (1, 1), (5, 2), (128, 4096), (4097, 4096), (9000, 4186), (300, 100)] {
            let all: Vec<_> = chunks(rows, most).collect();
            assert!(all.iter().all(|c| !c.is_empty() && c.len() <= most), "{all:?}");
            assert_eq!(all.iter().cloned().flatten().collect::<Vec<_>>(), (0..rows).collect::<Vec<_>>());
        }
        assert_eq!(chunks(4097, 4096).map(|c| c.len()).collect::<Vec<_>>(), [2176, 1921]);
    }

    #[test]
    fn a_row_of_exponentials_fits_where_a_row_of_logits_does() {
        for v in 16..3000 {
            for skew in [0, 4, 8, 12] {
                let scratch = Tensor::new(4096 + skew, DType::F32, 1, v);
                let exps = exps(scratch, DType::BF16, v);
                assert!(exps.rows() >= 1 && in_units(exps), "{v} {skew}");
                let end = exps.addr() + exps.rows() * exps.stride() * 2;
                assert!(end <= scratch.addr() + scratch.bytes());
            }
        }
    }
}
