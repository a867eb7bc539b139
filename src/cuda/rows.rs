//! How row-wise and elementwise kernels are cut: the host's half of `kernels/rows.cuh`.

use crate::tensor::{DType, Tensor};

/// Threads of a block of these kernels.
pub(super) const THREADS: u32 = 256;

/// Elements of a chunk of 16 bytes.
pub(super) fn lanes(dtype: DType) -> usize {
    16 / dtype.size()
}

/// Blocks for so many pieces of work. A kernel counts them in 32 bits.
pub(super) fn blocks(pieces: usize, a_block: usize) -> u32 {
    assert!(pieces < 1 << 31, "{pieces} pieces of work are more than a kernel counts");
    pieces.div_ceil(a_block) as u32
}

/// Blocks of an elementwise kernel in which every thread takes `chunks` chunks of `lanes` columns.
pub(super) fn chunked(rows: usize, cols: usize, lanes: usize, chunks: usize) -> u32 {
    blocks(rows * cols.div_ceil(lanes), THREADS as usize * chunks)
}

/// A size as kernels take it.
pub(super) fn int(n: usize) -> i32 {
    i32::try_from(n).unwrap_or_else(|_| panic!("{n} rows or columns are more than a kernel counts"))
}

/// The distance of rows as kernels take it, in elements.
pub(super) fn stride(x: Tensor) -> i64 {
    x.stride() as i64
}

/// The same elements as one row, where both tensors lie without gaps: then any width is a whole number of chunks but the
/// last.
pub(super) fn flat<const N: usize>(tensors: [Tensor; N]) -> [Tensor; N] {
    match tensors.iter().all(Tensor::is_dense) {
        true => tensors.map(|x| x.reshape(1, x.len())),
        false => tensors,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_the_work() {
        assert_eq!((blocks(1, 256), blocks(256, 256), blocks(257, 256)), (1, 1, 2));
        // 33 columns are 5 chunks of 8: 3 rows are 15 of the 512 chunks of a block.
        assert_eq!((chunked(3, 33, 8, 2), chunked(103, 33, 8, 2)), (1, 2));
        assert_eq!((lanes(DType::F32), lanes(DType::BF16)), (4, 8));
    }

    #[test]
    #[should_panic(expected = "more than a kernel counts")]
    fn too_much_work_is_refused() {
        blocks(1 << 31, 256);
    }
}
