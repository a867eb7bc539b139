//! Rows of tensors as f32 slices: the one place where handles become memory and storage dtypes become f32.
//!
//! f32 rows are borrowed in place; 16-bit rows are converted through a buffer. Ops work on f32 slices only.

use super::simd::{bf16, vectorized};
use crate::tensor::{DType, Tensor};
use half::slice::HalfFloatSliceExt;
use std::cell::RefCell;

/// Asserts that `x` has this shape: the contract of an op.
macro_rules! shape {
    ($x:expr, $rows:expr, $cols:expr) => {
        assert_eq!(($x.rows(), $x.cols()), ($rows, $cols), "shape of {}", stringify!($x))
    };
}
pub(super) use shape;

/// The `len` elements of row `r` of `x` from column `c` as a slice of `T`.
///
/// # Safety
/// `T` is `x`'s element type, the memory lives, and nobody writes to it while the slice does.
pub(super) unsafe fn slice<'a, T>(x: Tensor, r: usize, c: usize, len: usize) -> &'a [T] {
    debug_assert!(r < x.rows() && c + len <= x.cols() && size_of::<T>() == x.dtype().size());
    // SAFETY: inside the tensor by the assertion, alive by the caller's promise.
    unsafe { std::slice::from_raw_parts((x.addr() as *const T).add(r * x.stride() + c), len) }
}

/// As `slice`, to write.
///
/// # Safety
/// As for `slice`, and nobody else touches these elements meanwhile.
pub(super) unsafe fn slice_mut<'a, T>(x: Tensor, r: usize, c: usize, len: usize) -> &'a mut [T] {
    debug_assert!(r < x.rows() && c + len <= x.cols() && size_of::<T>() == x.dtype().size());
    // SAFETY: as in `slice`.
    unsafe { std::slice::from_raw_parts_mut((x.addr() as *mut T).add(r * x.stride() + c), len) }
}

/// All elements of a dense u32 tensor.
pub(super) fn indices<'a>(x: Tensor) -> &'a [u32] {
    assert!(x.dtype() == DType::U32 && x.is_dense(), "indices are dense u32: {x:?}");
    // SAFETY: device tensors live as long as their arena, and index tensors are written between ops only.
    unsafe { std::slice::from_raw_parts(x.addr() as *const u32, x.len()) }
}

/// All elements of a dense f32 tensor, to write.
pub(super) fn floats<'a>(x: Tensor) -> &'a mut [f32] {
    assert!(x.dtype() == DType::F32 && x.is_dense(), "expected dense f32: {x:?}");
    // SAFETY: an op's outputs and scratch are its own while it runs.
    unsafe { std::slice::from_raw_parts_mut(x.addr() as *mut f32, x.len()) }
}

vectorized! {
    fn bf16_to_f32(y: &mut [f32], x: &[u16]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = f32::from_bits(u32::from(*x) << 16);
        }
    }
}

vectorized! {
    fn f32_to_bf16(y: &mut [u16], x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = bf16(*x);
        }
    }
}

/// `out` = `out.len()` elements of row `r` from column `c`.
pub(super) fn load(out: &mut [f32], x: Tensor, r: usize, c: usize) {
    let n = out.len();
    // SAFETY: the dtype decides the element type; ops read tensors that nobody writes meanwhile.
    unsafe {
        match x.dtype() {
            DType::F32 => out.copy_from_slice(slice::<f32>(x, r, c, n)),
            DType::BF16 => bf16_to_f32(out, slice::<u16>(x, r, c, n)),
            DType::F16 => slice::<half::f16>(x, r, c, n).convert_to_f32_slice(out),
            DType::U32 | DType::U16 => panic!("whole numbers, not floats: {x:?}"),
        }
    }
}

vectorized! {
    fn zip_pairs(y: &mut [f32], first: &[u16], second: &[u16]) {
        for ((y, a), b) in y.iter_mut().zip(first).zip(second) {
            *y = f32::from_bits(u32::from(*a) << 16 | u32::from(*b));
        }
    }
}

vectorized! {
    fn swap_pairs(y: &mut [f32], x: &[[u16; 2]]) {
        for (y, [a, b]) in y.iter_mut().zip(x) {
            *y = f32::from_bits(u32::from(*a) << 16 | u32::from(*b));
        }
    }
}

/// Pairs of neighbouring bf16 values of row `r` from column `c`, `len` values: the first of a pair in the upper half of 32
/// bits. A last value alone is paired with zero.
pub(super) fn pairs_along(out: &mut [f32], x: Tensor, r: usize, c: usize, len: usize) {
    assert!(x.dtype() == DType::BF16 && out.len() == len.div_ceil(2));
    // SAFETY: as in `load`.
    let (whole, rest) = unsafe { slice::<u16>(x, r, c, len) }.as_chunks::<2>();
    swap_pairs(out, whole);
    if let ([last], Some(out)) = (rest, out.last_mut()) {
        *out = f32::from_bits(u32::from(*last) << 16);
    }
}

/// Pairs of one value of row `r` and the one below it (zero if `alone`), for `out.len()` columns from `c` on.
pub(super) fn pairs_down(out: &mut [f32], x: Tensor, r: usize, c: usize, alone: bool) {
    assert!(x.dtype() == DType::BF16);
    // SAFETY: as in `load`.
    unsafe {
        let first = slice::<u16>(x, r, c, out.len());
        match alone {
            true => bf16_to_f32(out, first),
            false => zip_pairs(out, first, slice::<u16>(x, r + 1, c, first.len())),
        }
    }
}

/// Row `r` from column `c` = `src`, rounded to the storage dtype.
pub(super) fn store(x: Tensor, r: usize, c: usize, src: &[f32]) {
    let n = src.len();
    // SAFETY: as in `load`; an op's tasks write disjoint elements.
    unsafe {
        match x.dtype() {
            DType::F32 => slice_mut::<f32>(x, r, c, n).copy_from_slice(src),
            DType::BF16 => f32_to_bf16(slice_mut::<u16>(x, r, c, n), src),
            DType::F16 => slice_mut::<half::f16>(x, r, c, n).convert_from_f32_slice(src),
            DType::U32 | DType::U16 => panic!("whole numbers, not floats: {x:?}"),
        }
    }
}

/// `len` elements of row `r` from column `c`: in place for f32, else converted into `buffer`.
pub(super) fn view(buffer: &mut [f32], x: Tensor, r: usize, c: usize, len: usize) -> &[f32] {
    if x.dtype() == DType::F32 {
        // SAFETY: as in `load`.
        unsafe { slice::<f32>(x, r, c, len) }
    } else {
        load(&mut buffer[..len], x, r, c);
        &buffer[..len]
    }
}

/// Lends each thread buffers of these lengths, kept between calls so that steady state allocates nothing.
/// Their contents are what the last user left.
pub(super) fn with_buffers<const N: usize, R>(lens: [usize; N], f: impl FnOnce([&mut [f32]; N]) -> R) -> R {
    thread_local! {
        static KEPT: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    // A task that waits inside rayon may start another on the same thread: take the buffer out, do not hold a borrow.
    let mut kept = KEPT.take();
    let pad = |n: usize| n.next_multiple_of(super::simd::LANES);
    let total = lens.iter().map(|&n| pad(n)).sum::<usize>() + 16;
    if kept.len() < total {
        kept.resize(total, 0.0);
    }
    let skip = kept.as_ptr().align_offset(64).min(16);
    let mut rest = &mut kept[skip..];
    let parts = lens.map(|n| {
        let (part, tail) = std::mem::take(&mut rest).split_at_mut(pad(n));
        rest = tail;
        &mut part[..n]
    });
    let result = f(parts);
    KEPT.set(kept);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bit_rows_round_as_the_half_crate() {
        let xs: Vec<f32> = (0..4000u32)
            .map(|i| f32::from_bits(i.wrapping_mul(1_073_741_827)))
            .chain([f32::NAN, f32::INFINITY])
            .collect();
        let mut got = vec![0u16; xs.len()];
        f32_to_bf16(&mut got, &xs);
        for (x, y) in xs.iter().zip(&got) {
            let want = half::bf16::from_f32(*x);
            assert!(want.to_bits() == *y || (want.is_nan() && half::bf16::from_bits(*y).is_nan()), "{x}");
        }
        let mut back = vec![0f32; xs.len()];
        bf16_to_f32(&mut back, &got);
        assert!(
            got.iter().zip(&back).all(|(h, f)| half::bf16::from_bits(*h).to_f32().to_bits() == f.to_bits())
        );
    }
}
