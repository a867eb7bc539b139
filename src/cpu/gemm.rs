//! The register-tile kernel and the packing of its operands, shared by matmul and attention.
//!
//! `c[mr, nr] += a . b` over packed panels: `a` holds `mr` values for each inner index, `b` holds `nr`. Every element of `c`
//! is one chain of fused multiply-adds in ascending order of the inner index, so tile shapes do not change a bit.

use super::rows::view;
use super::simd::{Level, level};
use crate::tensor::Tensor;

/// Inner indices of one packed block. Part of the definition of a product's bits: partial sums are added block by block.
pub(super) const KC: usize = 256;

/// The widest panels of any machine, for buffers.
pub(super) const MAX_MR: usize = 12;
/// As [`MAX_MR`], columns.
pub(super) const MAX_NR: usize = 32;

/// The register tile of this machine.
#[derive(Clone, Copy)]
pub(super) struct Micro {
    /// Rows of the tile.
    pub(super) mr: usize,
    /// Columns of the tile.
    pub(super) nr: usize,
    run: unsafe fn(usize, *const f32, *const f32, *mut f32, usize),
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

    /// `c += a . b` for packed `a` (`m` rows in panels of `mr`) and `b` (`n` columns in panels of `nr`), both `k` deep. `c`
    /// has `ldc` columns and is padded to whole tiles; what lands in the padding is meaningless.
    pub(super) fn block(
        &self,
        m: usize,
        n: usize,
        k: usize,
        a: &[f32],
        b: &[f32],
        c: &mut [f32],
        ldc: usize,
    ) {
        let (mt, nt) = (m.div_ceil(self.mr), n.div_ceil(self.nr));
        if mt == 0 || nt == 0 {
            return;
        }
        assert!(a.len() >= mt * self.mr * k && b.len() >= nt * self.nr * k);
        assert!(ldc >= nt * self.nr && c.len() >= (mt * self.mr - 1) * ldc + nt * self.nr);
        for j in 0..nt {
            for i in 0..mt {
                // SAFETY: panels and tile lie inside the slices by the assertions; the level was detected.
                unsafe {
                    (self.run)(
                        k,
                        a.as_ptr().add(i * self.mr * k),
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
unsafe fn tile_plain(k: usize, a: *const f32, b: *const f32, c: *mut f32, ldc: usize) {
    let mut acc = [[0f32; 8]; 4];
    for p in 0..k {
        for i in 0..4 {
            for j in 0..8 {
                // SAFETY: `a` holds 4 k values and `b` 8 k.
                acc[i][j] = unsafe { (*a.add(p * 4 + i)).mul_add(*b.add(p * 8 + j), acc[i][j]) };
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
        mut b: *const f32,
        c: *mut f32,
        ldc: usize,
    ) {
        // SAFETY: the caller gives 12 k and 32 k packed values and a 12 x 32 tile of `c`.
        unsafe {
            let mut acc = [[_mm512_setzero_ps(); 2]; 12];
            for _ in 0..k {
                let b0 = _mm512_loadu_ps(b);
                let b1 = _mm512_loadu_ps(b.add(16));
                for i in 0..12 {
                    let x = _mm512_set1_ps(*a.add(i));
                    acc[i][0] = _mm512_fmadd_ps(x, b0, acc[i][0]);
                    acc[i][1] = _mm512_fmadd_ps(x, b1, acc[i][1]);
                }
                a = a.add(12);
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
    pub(super) unsafe fn tile_avx2(k: usize, mut a: *const f32, mut b: *const f32, c: *mut f32, ldc: usize) {
        // SAFETY: the caller gives 6 k and 16 k packed values and a 6 x 16 tile of `c`.
        unsafe {
            let mut acc = [[_mm256_setzero_ps(); 2]; 6];
            for _ in 0..k {
                let b0 = _mm256_loadu_ps(b);
                let b1 = _mm256_loadu_ps(b.add(8));
                for i in 0..6 {
                    let x = _mm256_set1_ps(*a.add(i));
                    acc[i][0] = _mm256_fmadd_ps(x, b0, acc[i][0]);
                    acc[i][1] = _mm256_fmadd_ps(x, b1, acc[i][1]);
                }
                a = a.add(6);
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
}

/// Calls `$f::<W>` for the panel width of some register tile.
macro_rules! with_width {
    ($width:expr, $f:ident($($arg:expr),*)) => {
        match $width {
            4 => $f::<4>($($arg),*),
            6 => $f::<6>($($arg),*),
            8 => $f::<8>($($arg),*),
            12 => $f::<12>($($arg),*),
            16 => $f::<16>($($arg),*),
            32 => $f::<32>($($arg),*),
            other => unreachable!("no register tile is {other} wide"),
        }
    };
}

/// Floats of conversion buffer that packing wants for an inner size of `k`.
pub(super) const fn pack_buffer(k: usize) -> usize {
    MAX_NR * k
}

/// Packs `count` lines of length `k` into panels of `width` lines, inner index outermost; missing lines are zero.
/// `line(i, buffer)` gives line `i`, its `k` inner values, in place or converted into the buffer: for operands whose
/// lines run along memory.
pub(super) fn pack_lines<'x>(
    out: &mut [f32],
    width: usize,
    count: usize,
    k: usize,
    buffer: &mut [f32],
    line: impl Fn(usize, &'x mut [f32]) -> &'x [f32],
) {
    with_width!(width, pack_lines_of(out, count, k, buffer, line))
}

fn pack_lines_of<'x, const W: usize>(
    out: &mut [f32],
    count: usize,
    k: usize,
    buffer: &mut [f32],
    line: impl Fn(usize, &'x mut [f32]) -> &'x [f32],
) {
    if k == 0 {
        return;
    }
    assert!(buffer.len() >= W * k, "the buffer holds a panel");
    for (p, panel) in out[..count.div_ceil(W) * W * k].chunks_exact_mut(W * k).enumerate() {
        let have = W.min(count - p * W);
        let lines: [&[f32]; W] = std::array::from_fn(|i| {
            // SAFETY: line `i` has the buffer's part `i` to itself until the panel is written.
            let part = unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr().add(i * k), k) };
            if i < have {
                line(p * W + i, part)
            } else {
                part.fill(0.0);
                &*part
            }
        });
        for (q, slots) in panel.chunks_exact_mut(W).enumerate() {
            for i in 0..W {
                slots[i] = lines[i][q];
            }
        }
    }
}

/// As [`pack_lines`] for operands whose inner index runs down the rows: `line(p, buffer)` gives the `count` values at
/// inner index `p`.
pub(super) fn pack_across<'x>(
    out: &mut [f32],
    width: usize,
    count: usize,
    k: usize,
    buffer: &mut [f32],
    line: impl Fn(usize, &'x mut [f32]) -> &'x [f32],
) {
    with_width!(width, pack_across_of(out, count, k, buffer, line))
}

fn pack_across_of<'x, const W: usize>(
    out: &mut [f32],
    count: usize,
    k: usize,
    buffer: &mut [f32],
    line: impl Fn(usize, &'x mut [f32]) -> &'x [f32],
) {
    let whole = count / W;
    for p in 0..k {
        // SAFETY: the buffer is free again once the line is copied.
        let part = unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr(), count) };
        let values = line(p, part);
        for (j, group) in values.chunks_exact(W).enumerate() {
            out[(j * k + p) * W..][..W].copy_from_slice(group);
        }
        if whole * W < count {
            let slot = &mut out[(whole * k + p) * W..][..W];
            slot[..count - whole * W].copy_from_slice(&values[whole * W..]);
            slot[count - whole * W..].fill(0.0);
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
    buffer: &mut [f32],
) {
    pack_lines(out, width, count, k, buffer, |i, line| view(line, x, rows + i, cols, k));
}

/// `pack_across` of columns `cols..cols + count`, rows `rows..rows + k` of `x`.
pub(super) fn pack_cols(
    out: &mut [f32],
    width: usize,
    x: Tensor,
    (cols, count): (usize, usize),
    (rows, k): (usize, usize),
    buffer: &mut [f32],
) {
    pack_across(out, width, count, k, buffer, |p, line| view(line, x, rows + p, cols, count));
}
