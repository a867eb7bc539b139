//! The register-tile kernel and the packing of its right operand, shared by matmul and attention.
//!
//! `c[mr, nr] += a . b`: `a` is read where it lies, by strides (one value is broadcast at a time); `b` gives `nr` values in a
//! row for each inner index. Every element of `c` is one chain of fused multiply-adds in ascending order of the inner index,
//! so neither tile shapes nor layouts change a bit.

use super::rows::{load, pairs_along, pairs_down};
use super::simd::{Level, level, prefetch_rows, vectorized};
use crate::tensor::{DType, Tensor};

/// Inner indices of one packed block. Part of the definition of a product's bits: partial sums are added block by block.
pub(super) const KC: usize = 256;

/// Rows ahead of the one that is copied that are called into the cache: operands are cut across their rows, in pieces too
/// short for the machine to see where they go.
pub(super) const AHEAD: usize = 8;

/// Rows of the tallest register tile of any machine, for padding.
pub(super) const MAX_MR: usize = 12;
/// Columns of the widest, for buffers.
pub(super) const MAX_NR: usize = 32;

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

/// A right operand in panels of `nr` columns: element `(p, j)` of panel `q` is `data[q * panel + p * inner + j]`.
#[derive(Clone, Copy)]
pub(super) struct Right<'a> {
    pub(super) data: &'a [f32],
    /// From one inner index to the next.
    pub(super) inner: usize,
    /// From one panel to the next.
    pub(super) panel: usize,
}

impl<'a> Right<'a> {
    /// Panels of `k` inner indices, `width` columns each, one behind the other.
    pub(super) fn packed(data: &'a [f32], width: usize, k: usize) -> Self {
        Self { data, inner: width, panel: k * width }
    }
}

/// What becomes of a tile of `c`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sum {
    /// It is set.
    New,
    /// It is added to.
    More,
}

/// `k`, the left operand with its row and inner strides, a panel of the right one with its inner stride, `c` with its row
/// stride, and whether `c` is added to.
type Tile = unsafe fn(usize, *const f32, usize, usize, *const f32, usize, *mut f32, usize, bool);

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

    /// `c = a . b` or `c += a . b` for `m` rows of `a` and `n` columns of `b`, `k` deep. `c` has `ldc` columns and is padded
    /// to whole tiles; what lands in the padding is meaningless.
    pub(super) fn block(
        &self,
        (m, n, k): (usize, usize, usize),
        a: Left,
        b: Right,
        c: &mut [f32],
        ldc: usize,
        sum: Sum,
    ) {
        let places = Places { down: self.mr * ldc, right: self.nr, ldc, by_rows: false };
        self.tiles((m, n, k), k, a, b, c, places, sum, |_, _| {}, |_, _, _| {});
    }

    /// As [`block`](Self::block) in blocks of `kc` inner indices, whose sums are added up, and with the tiles of `c` where
    /// `places` says. `before` is told of a tile that comes, `then` has it as soon as it is there.
    #[inline]
    pub(super) fn tiles(
        &self,
        (m, n, k): (usize, usize, usize),
        kc: usize,
        a: Left,
        b: Right,
        c: &mut [f32],
        places: Places,
        sum: Sum,
        before: impl Fn(usize, usize),
        mut then: impl FnMut(usize, usize, &mut [f32]),
    ) {
        let (mt, nt) = (m.div_ceil(self.mr), n.div_ceil(self.nr));
        if mt == 0 || nt == 0 || k == 0 {
            return;
        }
        let Places { down, right, ldc, by_rows } = places;
        let size = (self.mr - 1) * ldc + self.nr;
        assert!(a.data.len() > (mt * self.mr - 1) * a.row + (k - 1) * a.inner);
        assert!(b.data.len() >= (nt - 1) * b.panel + (k - 1) * b.inner + self.nr);
        assert!(ldc >= self.nr && c.len() >= (mt - 1) * down + (nt - 1) * right + size);
        let (outer, inner) = if by_rows { (mt, nt) } else { (nt, mt) };
        for o in 0..outer {
            for q in 0..inner {
                let (i, j) = if by_rows { (o, q) } else { (q, o) };
                before(i, j);
                let c = &mut c[i * down + j * right..][..size];
                for k0 in (0..k).step_by(kc) {
                    // SAFETY: operands and tile lie inside the slices by the assertions; the level was detected.
                    unsafe {
                        (self.run)(
                            kc.min(k - k0),
                            a.data.as_ptr().add(i * self.mr * a.row + k0 * a.inner),
                            a.row,
                            a.inner,
                            b.data.as_ptr().add(j * b.panel + k0 * b.inner),
                            b.inner,
                            c.as_mut_ptr(),
                            ldc,
                            k0 > 0 || sum == Sum::More,
                        );
                    }
                }
                then(i, j, c);
            }
        }
    }
}

/// Where the tiles of a product lie, and in which order they are computed.
#[derive(Clone, Copy)]
pub(super) struct Places {
    /// From a tile to the one below it, to the one beside it, and from a row of a tile to the next.
    pub(super) down: usize,
    pub(super) right: usize,
    pub(super) ldc: usize,
    /// Rows of tiles after rows of tiles, instead of columns after columns.
    pub(super) by_rows: bool,
}

/// The portable tile, 4 x 8.
unsafe fn tile_plain(
    k: usize,
    a: *const f32,
    row: usize,
    inner: usize,
    b: *const f32,
    ldb: usize,
    c: *mut f32,
    ldc: usize,
    more: bool,
) {
    let mut acc = [[0f32; 8]; 4];
    for p in 0..k {
        for i in 0..4 {
            for j in 0..8 {
                // SAFETY: `a` holds 4 x k values by its strides and `b` k x 8.
                let (x, y) = unsafe { (*a.add(i * row + p * inner), *b.add(p * ldb + j)) };
                acc[i][j] = x.mul_add(y, acc[i][j]);
            }
        }
    }
    for i in 0..4 {
        for j in 0..8 {
            // SAFETY: the caller's tile of `c`.
            unsafe { *c.add(i * ldc + j) = if more { *c.add(i * ldc + j) } else { 0.0 } + acc[i][j] };
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
        ldb: usize,
        c: *mut f32,
        ldc: usize,
        more: bool,
    ) {
        // SAFETY: the caller gives 12 x k values, k x 32 values by strides, and a 12 x 32 tile of `c`.
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
                b = b.wrapping_add(ldb);
            }
            for i in 0..12 {
                for j in 0..2 {
                    let p = c.add(i * ldc + j * 16);
                    let old = if more { _mm512_loadu_ps(p) } else { _mm512_setzero_ps() };
                    _mm512_storeu_ps(p, _mm512_add_ps(old, acc[i][j]));
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
        ldb: usize,
        c: *mut f32,
        ldc: usize,
        more: bool,
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
                b = b.wrapping_add(ldb);
            }
            for i in 0..12 {
                for j in 0..2 {
                    let p = c.add(i * ldc + j * 16);
                    let old = if more { _mm512_loadu_ps(p) } else { _mm512_setzero_ps() };
                    _mm512_storeu_ps(p, _mm512_add_ps(old, acc[i][j]));
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
        ldb: usize,
        c: *mut f32,
        ldc: usize,
        more: bool,
    ) {
        // SAFETY: the caller gives 6 x k and k x 16 values by strides, and a 6 x 16 tile of `c`.
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
                b = b.wrapping_add(ldb);
            }
            for i in 0..6 {
                for j in 0..2 {
                    let p = c.add(i * ldc + j * 8);
                    let old = if more { _mm256_loadu_ps(p) } else { _mm256_setzero_ps() };
                    _mm256_storeu_ps(p, _mm256_add_ps(old, acc[i][j]));
                }
            }
        }
    }

    /// `out[p * width + i] = lines[i * k + p]` for the eight lines from `i` on and the eight inner indices from `p` on; with
    /// `SWAP` the halves of every value change places.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn transpose_8x8<const SWAP: bool>(
        out: *mut f32,
        width: usize,
        lines: *const f32,
        k: usize,
    ) {
        // SAFETY: the caller gives eight lines of eight values and eight places of eight.
        unsafe {
            // Loops, not closures: a closure is not compiled for AVX2 together with this function.
            let mut x = [_mm256_setzero_ps(); 8];
            for i in 0..8 {
                let line = _mm256_loadu_si256(lines.add(i * k).cast());
                let swapped = _mm256_or_si256(_mm256_slli_epi32::<16>(line), _mm256_srli_epi32::<16>(line));
                x[i] = _mm256_castsi256_ps(if SWAP { swapped } else { line });
            }
            let mut pairs = x;
            for i in 0..4 {
                pairs[2 * i] = _mm256_unpacklo_ps(x[2 * i], x[2 * i + 1]);
                pairs[2 * i + 1] = _mm256_unpackhi_ps(x[2 * i], x[2 * i + 1]);
            }
            // Of quads[h * 4 + q]: lines 4 h to 4 h + 3, inner indices q and q + 4 in the two halves.
            let mut quads = x;
            for h in [0, 4] {
                for q in [0, 1] {
                    let (a, b) = (pairs[h + q], pairs[h + 2 + q]);
                    quads[h + 2 * q] = _mm256_shuffle_ps::<0x44>(a, b);
                    quads[h + 2 * q + 1] = _mm256_shuffle_ps::<0xee>(a, b);
                }
            }
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

/// `out[p * width + i] = lines[i * apart + p]`: `width` lines of length `k`, `apart` from one to the next, become a panel;
/// with `SWAP` the halves of every value change places.
fn transpose<const SWAP: bool>(out: &mut [f32], width: usize, lines: &[f32], apart: usize, k: usize) {
    assert!(out.len() >= width * k && apart >= k && lines.len() >= (width - 1) * apart + k);
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if level() != Level::Base && width.is_multiple_of(8) {
        done = k / 8 * 8;
        for p in (0..done).step_by(8) {
            for i in (0..width).step_by(8) {
                // SAFETY: inside both by the assertion; the level says that there is AVX2.
                unsafe {
                    x86::transpose_8x8::<SWAP>(
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
            let x = lines[i * apart + p];
            out[p * width + i] = if SWAP { f32::from_bits(x.to_bits().rotate_left(16)) } else { x };
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
        transpose::<false>(panel, width, lines, k, k);
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

/// Packs rows `rows..rows + count`, columns `cols..cols + k` of `x` as [`pack_lines`] does; with `paired` the inner index
/// counts pairs of bf16 values.
pub(super) fn pack_rows(
    out: &mut [f32],
    width: usize,
    x: Tensor,
    paired: bool,
    (rows, count): (usize, usize),
    (cols, k): (usize, usize),
    lines: &mut [f32],
) {
    // Values of a unit of 32 bits: such units are transposed from where they lie.
    let unit = 4 / x.dtype().size();
    let even = [x.stride(), k, x.addr() / 2].iter().all(|n| n.is_multiple_of(2));
    let in_place = if paired { even } else { unit == 1 };
    let depth = if paired { k.div_ceil(2) } else { k };
    let mut done = 0;
    if in_place {
        let apart = x.stride() / unit;
        done = count / width * width;
        for (first, panel) in (0..done).step_by(width).zip(out.chunks_exact_mut(width * depth)) {
            // SAFETY: `width` rows of the operand, `k` values of each: as `load` reads them.
            let lines = unsafe { block(x, (rows + first, cols), (width - 1) * apart + depth) };
            match paired {
                true => transpose::<true>(panel, width, lines, apart, depth),
                false => transpose::<false>(panel, width, lines, apart, depth),
            }
        }
    }
    let rest = &mut out[done * depth..];
    pack_lines(rest, width, count - done, depth, lines, |i, line| match paired {
        true => pairs_along(line, x, rows + done + i, cols, k),
        false => load(line, x, rows + done + i, cols),
    });
}

/// How values of an operand become those of a panel.
#[derive(Clone, Copy)]
enum Become {
    /// f32 as it is.
    Same,
    /// bf16 to f32.
    Wide,
    /// Two rows of bf16 to pairs.
    Pairs,
}

/// `W` columns of `k` rows of units of 16 or 32 bits, `stride` units apart, as one panel. Rows are called into the cache
/// before they are needed.
#[inline(always)]
fn panel<const W: usize>(out: &mut [f32], x: Tensor, (row, k): (usize, usize), col: usize, how: Become) {
    let slots = out.as_chunks_mut::<W>().0.iter_mut();
    let halves = |r: usize| -> &[u16; W] {
        // SAFETY: the caller made sure that `W` values of every row lie in the operand's memory, and of which type.
        unsafe { &*(x.addr() as *const u16).add(r * x.stride() + col).cast() }
    };
    match how {
        Become::Same => {
            for (p, slot) in slots.take(k).enumerate() {
                prefetch_rows(x, row + p + AHEAD, 1, (col, W));
                // SAFETY: as above.
                *slot =
                    unsafe { *(x.addr() as *const f32).add((row + p) * x.stride() + col).cast::<[f32; W]>() };
            }
        }
        Become::Wide => {
            for (p, slot) in slots.take(k).enumerate() {
                prefetch_rows(x, row + p + AHEAD, 1, (col, W));
                for (y, x) in slot.iter_mut().zip(halves(row + p)) {
                    *y = f32::from_bits(u32::from(*x) << 16);
                }
            }
        }
        Become::Pairs => {
            for (p, slot) in slots.take(k.div_ceil(2)).enumerate() {
                prefetch_rows(x, row + 2 * p + AHEAD, 2, (col, W));
                let first = halves(row + 2 * p);
                let second = if 2 * p + 1 < k { halves(row + 2 * p + 1) } else { &[0; W] };
                for ((y, a), b) in slot.iter_mut().zip(first).zip(second) {
                    *y = f32::from_bits(u32::from(*a) << 16 | u32::from(*b));
                }
            }
        }
    }
}

vectorized! {
    /// [`panel`] of the width of a tile.
    fn panel_of(width: usize, out: &mut [f32], x: Tensor, rows: (usize, usize), col: usize, how: Become) {
        match width {
            8 => panel::<8>(out, x, rows, col, how),
            16 => panel::<16>(out, x, rows, col, how),
            _ => panel::<MAX_NR>(out, x, rows, col, how),
        }
    }
}

/// Packs columns `cols..cols + count`, rows `rows..rows + k` of `x` as [`pack_across`] does; with `paired` the inner index
/// counts pairs of bf16 values. Columns that are missing in the last panel are any numbers.
pub(super) fn pack_cols(
    out: &mut [f32],
    width: usize,
    x: Tensor,
    paired: bool,
    (cols, count): (usize, usize),
    (rows, k): (usize, usize),
    lines: &mut [f32],
) {
    let how = match x.dtype() {
        DType::F32 => Some(Become::Same),
        DType::BF16 if paired => Some(Become::Pairs),
        DType::BF16 => Some(Become::Wide),
        _ => None,
    };
    let depth = if paired { k.div_ceil(2) } else { k };
    for (j, out) in (0..count).step_by(width).zip(out.chunks_exact_mut(width * depth)) {
        // Whole panels are read even past the last column, as long as that is memory of the operand.
        let end = (rows + k - 1) * x.stride() + cols + j + width;
        match how.filter(|_| end <= (x.rows() - 1) * x.stride() + x.cols()) {
            Some(how) => panel_of(width, out, x, (rows, k), cols + j, how),
            None => pack_across(out, width, width.min(count - j), depth, lines, |p, line| match paired {
                true => pairs_down(line, x, rows + 2 * p, cols + j, 2 * p + 1 == k),
                false => load(line, x, rows + p, cols + j),
            }),
        }
    }
}

/// `len` units of 32 bits of `x` in memory from row and column `at` on, over row ends: f32, or pairs of bf16 (the column
/// even).
///
/// # Safety
/// They lie inside the tensor's memory, and nobody writes to them meanwhile.
pub(super) unsafe fn block<'a>(x: Tensor, at: (usize, usize), len: usize) -> &'a [f32] {
    let (first, size) = (at.0 * x.stride() + at.1, x.dtype().size());
    debug_assert!(first * size + 4 * len <= ((x.rows() - 1) * x.stride() + x.cols()) * size);
    // SAFETY: the caller's promise. Tensors and even columns lie on four bytes.
    unsafe { std::slice::from_raw_parts((x.addr() + first * size) as *const f32, len) }
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
