//! The register-tile kernel and the packing of its right operand, shared by matmul and attention.
//!
//! `c[mr, nr] += a . b`: `a` is read where it lies, by strides (one value is broadcast at a time); `b` is packed, `nr` values
//! for each inner index. Every element of `c` is one chain of fused multiply-adds in ascending order of the inner index, so
//! neither tile shapes nor layouts change a bit.

use super::rows::load;
use super::simd::{Level, level};
use crate::tensor::{DType, Tensor};

/// Inner indices of one packed block. Part of the definition of a product's bits: partial sums are added block by block.
pub(super) const KC: usize = 256;

/// Rows of the tallest register tile of any machine, for padding.
pub(super) const MAX_MR: usize = 12;
/// Columns of the widest, for buffers.
const MAX_NR: usize = 32;

/// A left operand: element `(i, p)` is `data[i * row + p * inner]`.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    /// Enough for whole register tiles; what lies past the last row is read and goes to the padding of `c`.
    pub(super) data: &'a [f32],
    /// From one row to the next.
    pub(super) row: usize,
    /// From one inner index to the next.
    pub(super) inner: usize,
}

/// `k`, the left operand with its row and inner strides, the panel of the right one, `c` with its row stride.
type Tile = unsafe fn(usize, *const f32, usize, usize, *const f32, *mut f32, usize);

/// The register tile of this machine.
#[derive(Clone, Copy)]
pub(super) struct Micro {
    /// Rows of the tile.
    pub(super) mr: usize,
    /// Columns of the tile.
    pub(super) nr: usize,
    run: Tile,
}

impl Micro {
    /// The tile for this machine's vectors.
    pub(super) fn get() -> Self {
        match level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Self { mr: 12, nr: 32, run: x86::tile_avx512 },
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Self { mr: 6, nr: 16, run: x86::tile_avx2 },
            _ => Self { mr: 4, nr: 8, run: tile_plain },
        }
    }

    /// The tile that multiplies bf16 as it is, where the machine has one: an inner index is then a pair of values, the first in
    /// the upper half of 32 bits. The instruction multiplies the upper halves, then the lower ones, each product exact and each
    /// sum rounded: the chain of multiply-adds of the other tiles, and their bits, except that subnormal numbers count as zero.
    pub(super) fn pairs() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if level() == Level::Avx512 && is_x86_feature_detected!("avx512bf16") {
            return Some(Self { mr: 12, nr: 32, run: x86::tile_bf16 });
        }
        None
    }

    /// `c += a . b` for `m` rows of `a` and `n` columns of `b` (in panels of `nr`), `k` deep. `c` has `ldc` columns and is
    /// padded to whole tiles; what lands in the padding is meaningless.
    pub(super) fn block(&self, m: usize, n: usize, k: usize, a: Left, b: &[f32], c: &mut [f32], ldc: usize) {
        let (mt, nt) = (m.div_ceil(self.mr), n.div_ceil(self.nr));
        if mt == 0 || nt == 0 || k == 0 {
            return;
        }
        assert!(a.data.len() > (mt * self.mr - 1) * a.row + (k - 1) * a.inner && b.len() >= nt * self.nr * k);
        assert!(ldc >= nt * self.nr && c.len() >= (mt * self.mr - 1) * ldc + nt * self.nr);
        for j in 0..nt {
            for i in 0..mt {
                // SAFETY: operands and tile lie inside the slices by the assertions; the level was detected.
                unsafe {
                    (self.run)(
                        k,
                        a.data.as_ptr().add(i * self.mr * a.row),
                        a.row,
                        a.inner,
                        b.as_ptr().add(j * self.nr * k),
                        c.as_mut_ptr().add(i * self.mr * ldc + j * self.nr),
                        ldc,
                    );
                }
            }
        }
    }
}

/// The portable tile, 4 x 8.
unsafe fn tile_plain(
    k: usize,
    a: *const f32,
    row: usize,
    inner: usize,
    b: *const f32,
    c: *mut f32,
    ldc: usize,
) {
    let mut acc = [[0f32; 8]; 4];
    for p in 0..k {
        for i in 0..4 {
            for j in 0..8 {
                // SAFETY: `a` holds 4 x k values by its strides and `b` 8 k.
                let (x, y) = unsafe { (*a.add(i * row + p * inner), *b.add(p * 8 + j)) };
                acc[i][j] = x.mul_add(y, acc[i][j]);
            }
        }
    }
    for i in 0..4 {
        for j in 0..8 {
            // SAFETY: the caller's tile of `c`.
            unsafe { *c.add(i * ldc + j) += acc[i][j] };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// 12 x 32: 24 accumulators, two vectors of `b`, one broadcast of `a`.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn tile_avx512(
        k: usize,
        mut a: *const f32,
        row: usize,
        inner: usize,
        mut b: *const f32,
        c: *mut f32,
        ldc: usize,
    ) {
        // SAFETY: the caller gives 12 x k values by strides, 32 k packed ones and a 12 x 32 tile of `c`.
        unsafe {
            let mut acc = [[_mm512_setzero_ps(); 2]; 12];
            for _ in 0..k {
                let b0 = _mm512_loadu_ps(b);
                let b1 = _mm512_loadu_ps(b.add(16));
                for i in 0..12 {
                    let x = _mm512_set1_ps(*a.add(i * row));
                    acc[i][0] = _mm512_fmadd_ps(x, b0, acc[i][0]);
                    acc[i][1] = _mm512_fmadd_ps(x, b1, acc[i][1]);
                }
                a = a.wrapping_add(inner);
                b = b.add(32);
            }
            for i in 0..12 {
                for j in 0..2 {
                    let p = c.add(i * ldc + j * 16);
                    _mm512_storeu_ps(p, _mm512_add_ps(_mm512_loadu_ps(p), acc[i][j]));
                }
            }
        }
    }

    /// 12 x 32 of bf16 pairs: 24 accumulators, two vectors of `b`, one broadcast pair of `a`.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn tile_bf16(
        k: usize,
        mut a: *const f32,
        row: usize,
        inner: usize,
        mut b: *const f32,
        c: *mut f32,
        ldc: usize,
    ) {
        // SAFETY: as for `tile_avx512`, with pairs of bf16 in place of values; their bits are only moved.
        unsafe {
            let pairs = |x: __m512i| std::mem::transmute::<__m512i, __m512bh>(x);
            let mut acc = [[_mm512_setzero_ps(); 2]; 12];
            for _ in 0..k {
                let b0 = pairs(_mm512_loadu_si512(b.cast()));
                let b1 = pairs(_mm512_loadu_si512(b.add(16).cast()));
                for i in 0..12 {
                    let x = pairs(_mm512_set1_epi32(*a.add(i * row).cast::<i32>()));
                    acc[i][0] = _mm512_dpbf16_ps(acc[i][0], x, b0);
                    acc[i][1] = _mm512_dpbf16_ps(acc[i][1], x, b1);
                }
                a = a.wrapping_add(inner);
                b = b.add(32);
            }
            for i in 0..12 {
                for j in 0..2 {
                    let p = c.add(i * ldc + j * 16);
                    _mm512_storeu_ps(p, _mm512_add_ps(_mm512_loadu_ps(p), acc[i][j]));
                }
            }
        }
    }

    /// 6 x 16: 12 accumulators, two vectors of `b`, one broadcast of `a`.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn tile_avx2(
        k: usize,
        mut a: *const f32,
        row: usize,
        inner: usize,
        mut b: *const f32,
        c: *mut f32,
        ldc: usize,
    ) {
        // SAFETY: the caller gives 6 x k values by strides, 16 k packed ones and a 6 x 16 tile of `c`.
        unsafe {
            let mut acc = [[_mm256_setzero_ps(); 2]; 6];
            for _ in 0..k {
                let b0 = _mm256_loadu_ps(b);
                let b1 = _mm256_loadu_ps(b.add(8));
                for i in 0..6 {
                    let x = _mm256_set1_ps(*a.add(i * row));
                    acc[i][0] = _mm256_fmadd_ps(x, b0, acc[i][0]);
                    acc[i][1] = _mm256_fmadd_ps(x, b1, acc[i][1]);
                }
                a = a.wrapping_add(inner);
                b = b.add(16);
            }
            for i in 0..6 {
                for j in 0..2 {
                    let p = c.add(i * ldc + j * 8);
                    _mm256_storeu_ps(p, _mm256_add_ps(_mm256_loadu_ps(p), acc[i][j]));
                }
            }
        }
    }

    /// `out[p * width + i] = lines[i * k + p]` for the eight lines from `i` on and the eight inner indices from `p` on.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn transpose_8x8(out: *mut f32, width: usize, lines: *const f32, k: usize) {
        // SAFETY: the caller gives eight lines of eight values and eight places of eight.
        unsafe {
            let x: [__m256; 8] = std::array::from_fn(|i| _mm256_loadu_ps(lines.add(i * k)));
            let pairs: [__m256; 8] = std::array::from_fn(|i| {
                let (a, b) = (x[i / 2 * 2], x[i / 2 * 2 + 1]);
                if i % 2 == 0 { _mm256_unpacklo_ps(a, b) } else { _mm256_unpackhi_ps(a, b) }
            });
            // Of quads[h * 4 + q]: lines 4 h to 4 h + 3, inner indices q and q + 4 in the two halves.
            let quads: [__m256; 8] = std::array::from_fn(|i| {
                let (h, q) = (i / 4 * 4, i % 4);
                let (a, b) = (pairs[h + q / 2], pairs[h + 2 + q / 2]);
                if q % 2 == 0 { _mm256_shuffle_ps::<0x44>(a, b) } else { _mm256_shuffle_ps::<0xee>(a, b) }
            });
            for q in 0..4 {
                let low = _mm256_permute2f128_ps::<0x20>(quads[q], quads[4 + q]);
                let high = _mm256_permute2f128_ps::<0x31>(quads[q], quads[4 + q]);
                _mm256_storeu_ps(out.add(q * width), low);
                _mm256_storeu_ps(out.add((q + 4) * width), high);
            }
        }
    }
}

/// Room for the lines of a panel on their way into it.
pub(super) const LINES: usize = MAX_NR * KC;

/// `out[p * width + i] = lines[i * apart + p]`: `width` lines of length `k`, `apart` from one to the next, become a panel.
fn transpose(out: &mut [f32], width: usize, lines: &[f32], apart: usize, k: usize) {
    assert!(out.len() >= width * k && apart >= k && lines.len() >= (width - 1) * apart + k);
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if level() != Level::Base && width.is_multiple_of(8) {
        done = k / 8 * 8;
        for p in (0..done).step_by(8) {
            for i in (0..width).step_by(8) {
                // SAFETY: inside both by the assertion; the level says that there is AVX2.
                unsafe {
                    x86::transpose_8x8(
                        out.as_mut_ptr().add(p * width + i),
                        width,
                        lines.as_ptr().add(i * apart + p),
                        apart,
                    );
                }
            }
        }
    }
    for p in done..k {
        for i in 0..width {
            out[p * width + i] = lines[i * apart + p];
        }
    }
}

/// Packs `count` lines of length `k` as right operand; missing lines of the last panel are zero. `fill(i, line)` gives line
/// `i` (its `k` inner values): for operands whose lines run along memory. `lines` holds [`LINES`] values.
pub(super) fn pack_lines(
    out: &mut [f32],
    width: usize,
    count: usize,
    k: usize,
    lines: &mut [f32],
    mut fill: impl FnMut(usize, &mut [f32]),
) {
    for (first, panel) in (0..count).step_by(width).zip(out.chunks_exact_mut(width * k)) {
        for (i, line) in lines[..width * k].chunks_exact_mut(k).enumerate() {
            if first + i < count { fill(first + i, line) } else { line.fill(0.0) }
        }
        transpose(panel, width, lines, k, k);
    }
}

/// As [`pack_lines`] for operands whose inner index runs down the rows: `fill(p, line)` gives the `count` values at inner
/// index `p`.
pub(super) fn pack_across(
    out: &mut [f32],
    width: usize,
    count: usize,
    k: usize,
    lines: &mut [f32],
    fill: impl FnMut(usize, &mut [f32]),
) {
    // The copies are short: their length has to be known to the compiler.
    match width {
        8 => across::<8>(out, count, k, lines, fill),
        16 => across::<16>(out, count, k, lines, fill),
        _ => across::<MAX_NR>(out, count, k, lines, fill),
    }
}

fn across<const W: usize>(
    out: &mut [f32],
    count: usize,
    k: usize,
    lines: &mut [f32],
    mut fill: impl FnMut(usize, &mut [f32]),
) {
    let padded = count.next_multiple_of(W);
    // Several inner indices at a time: a panel's next line of cache is then written in one go.
    let step = (LINES / padded.max(1)).min(16);
    for p in (0..k).step_by(step) {
        let height = step.min(k - p);
        let lines = &mut lines[..height * padded];
        for (i, line) in lines.chunks_exact_mut(padded).enumerate() {
            fill(p + i, &mut line[..count]);
            line[count..].fill(0.0);
        }
        for j in 0..padded / W {
            let panel = &mut out[(j * k + p) * W..][..height * W];
            for (slot, line) in panel.as_chunks_mut::<W>().0.iter_mut().zip(lines.chunks_exact(padded)) {
                slot.copy_from_slice(&line[j * W..][..W]);
            }
        }
    }
}

/// `pack_lines` of rows `rows..rows + count`, columns `cols..cols + k` of `x`.
pub(super) fn pack_rows(
    out: &mut [f32],
    width: usize,
    x: Tensor,
    (rows, count): (usize, usize),
    (cols, k): (usize, usize),
    lines: &mut [f32],
) {
    let mut done = 0;
    if x.dtype() == DType::F32 {
        // f32 rows are transposed from where they lie.
        done = count / width * width;
        for (first, panel) in (0..done).step_by(width).zip(out.chunks_exact_mut(width * k)) {
            // SAFETY: `width` rows of the operand, `k` values of each: as `load` reads them.
            let lines = unsafe { block(x, (rows + first, cols), (width - 1) * x.stride() + k) };
            transpose(panel, width, lines, x.stride(), k);
        }
    }
    let rest = &mut out[done * k..];
    pack_lines(rest, width, count - done, k, lines, |i, line| load(line, x, rows + done + i, cols));
}

/// `pack_across` of columns `cols..cols + count`, rows `rows..rows + k` of `x`.
pub(super) fn pack_cols(
    out: &mut [f32],
    width: usize,
    x: Tensor,
    (cols, count): (usize, usize),
    (rows, k): (usize, usize),
    lines: &mut [f32],
) {
    if x.dtype() != DType::F32 {
        return pack_across(out, width, count, k, lines, |p, line| load(line, x, rows + p, cols));
    }
    // SAFETY: rows of the operand, as `load` reads them.
    let row = |p: usize| unsafe { block(x, (rows + p, cols), count) };
    match width {
        8 => across_in_place::<8>(out, k, row),
        16 => across_in_place::<16>(out, k, row),
        _ => across_in_place::<MAX_NR>(out, k, row),
    }
}

/// [`across`] of f32 rows that are copied from where they lie.
fn across_in_place<'a, const W: usize>(out: &mut [f32], k: usize, row: impl Fn(usize) -> &'a [f32]) {
    for p in 0..k {
        let (whole, rest) = row(p).as_chunks::<W>();
        let slot = |j: usize| (j * k + p) * W..(j * k + p + 1) * W;
        for (j, chunk) in whole.iter().enumerate() {
            out[slot(j)].copy_from_slice(chunk);
        }
        if !rest.is_empty() {
            let last = &mut out[slot(whole.len())];
            last[..rest.len()].copy_from_slice(rest);
            last[rest.len()..].fill(0.0);
        }
    }
}

/// `len` f32 of `x` in memory from row and column `at` on, over row ends.
///
/// # Safety
/// They lie inside the tensor's memory, and nobody writes to them meanwhile.
pub(super) unsafe fn block<'a>(x: Tensor, at: (usize, usize), len: usize) -> &'a [f32] {
    debug_assert!(x.dtype() == DType::F32);
    debug_assert!(at.0 * x.stride() + at.1 + len <= (x.rows() - 1) * x.stride() + x.cols());
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts((x.addr() as *const f32).add(at.0 * x.stride() + at.1), len) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_hold_every_element_and_zeros() {
        let at = |i: usize, p: usize| (1 + i * 1000 + p) as f32;
        for (width, count, k) in
            [(8usize, 7usize, 3), (16, 13, 41), (8, 8, 8), (32, 200, 17), (16, 33, 256), (32, 250, 100)]
        {
            let size = count.next_multiple_of(width) * k;
            let [mut along, mut across] = [0; 2].map(|_| vec![f32::NAN; size]);
            let lines = &mut vec![f32::NAN; LINES];
            pack_lines(&mut along, width, count, k, lines, |i, line| (0..k).for_each(|p| line[p] = at(i, p)));
            pack_across(&mut across, width, count, k, lines, |p, line| {
                (0..count).for_each(|i| line[i] = at(i, p))
            });
            for (i, p) in (0..count.next_multiple_of(width)).flat_map(|i| (0..k).map(move |p| (i, p))) {
                let slot = (i / width * k + p) * width + i % width;
                let want = if i < count { at(i, p) } else { 0.0 };
                assert_eq!(
                    (along[slot], across[slot]),
                    (want, want),
                    "{width} {count} {k}: line {i}, inner {p}"
                );
            }
        }
    }
}
