//! Matrix products: output tiles are tasks; each accumulates in f32 and writes once, from the cache.

use super::gemm::{AHEAD, KC, LINES, Left, Micro, Places, Right, Sum, block, pack_cols, pack_rows};
use super::rows::{load, pairs_along, pairs_down, shape, store, view, with_buffers};
use super::{Cpu, simd};
use crate::ops::matmul::{Activation, Epilogue, Form, Matmul};
use crate::tensor::{DType, Tensor};
use std::sync::PoisonError;

/// Largest output tile of a task: with a block of each operand it fits three quarters of a megabyte of L2.
const TILE: (usize, usize) = (192, 256);

/// Largest inner size of a product whose register tiles are finished one by one: beyond it whole rows of the left operand
/// would not stay in L2, and sums are kept from block to block.
const WHOLE: usize = 768;

/// Products of at most so many elements and at least so many inner indices are computed block by block of the inner size.
const DEEP: (usize, usize) = (1 << 17, 16 * KC);

/// Most bytes of a right operand that is packed for all tasks at once: it stays in a last-level cache.
pub(super) const PACKED: usize = 4 << 20;

/// Output tile for `[m, n]`: even parts of at most [`TILE`], halved until there is work for `threads`, never below a
/// register tile. Bits do not depend on it.
fn tile((m, n, k): (usize, usize, usize), micro: &Micro, threads: usize) -> (usize, usize) {
    // Without sums to keep, only the right operand counts.
    let most = if k <= KC { 2 * TILE.1 } else { TILE.1 };
    let even = |n: usize, most: usize, unit: usize| n.div_ceil(n.div_ceil(most)).next_multiple_of(unit);
    let (mut tm, mut tn) = (even(m, TILE.0, micro.mr), even(n, most, micro.nr));
    while threads > 1 && m.div_ceil(tm) * n.div_ceil(tn) < 4 * threads {
        if tn >= tm && tn >= 2 * micro.nr {
            tn = (tn / 2).next_multiple_of(micro.nr);
        } else if tm >= 2 * micro.mr {
            tm = (tm / 2).next_multiple_of(micro.mr);
        } else {
            break;
        }
    }
    (tm, tn)
}

/// The first elements of the tiles that cover `[m, n]`.
fn tiles_of((m, n): (usize, usize), (mr, nr): (usize, usize)) -> impl Iterator<Item = (usize, usize)> {
    (0..m).step_by(mr).flat_map(move |i| (0..n).step_by(nr).map(move |j| (i, j)))
}

/// A product with its operands, and how it is computed.
struct Product {
    y: Tensor,
    a: Tensor,
    b: Tensor,
    form: Form,
    epilogue: Epilogue,
    micro: Micro,
    /// Whether an inner index of the operands of `micro` is a pair of bf16 values.
    paired: bool,
    /// Inner size.
    k: usize,
}

/// Elements of a buffer that tasks write to, each its own.
#[derive(Clone, Copy)]
struct Parts(usize);

impl Parts {
    /// # Safety
    /// The buffer holds them and lives, and nobody else uses them meanwhile.
    unsafe fn at<'a>(self, first: usize, len: usize) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut((self.0 as *mut f32).add(first), len) }
    }
}

/// Runs a task for every number below the first argument.
type Each<'a> = dyn Fn(usize, &(dyn Fn(usize) + Sync)) + 'a;

/// Where a task finds its right operand.
#[derive(Clone, Copy)]
enum Source<'a> {
    /// Where it lies, in f32 rows.
    Own,
    /// Packed for all tasks: the panels of the columns from this one on, each with its whole inner size.
    Shared(&'a [f32], usize),
    /// The task packs it: nobody else needs these columns.
    Task,
}

impl Product {
    /// Inner indices of an operand for `k` values.
    fn depth(&self, k: usize) -> usize {
        if self.paired { k.div_ceil(2) } else { k }
    }

    /// Packs inner indices `k0..k0 + kk` of columns `j0..j0 + nj` of the right operand.
    fn pack(&self, out: &mut [f32], (j0, nj): (usize, usize), (k0, kk): (usize, usize), lines: &mut [f32]) {
        match self.form {
            Form::NT => pack_rows(out, self.micro.nr, self.b, self.paired, (j0, nj), (k0, kk), lines),
            _ => pack_cols(out, self.micro.nr, self.b, self.paired, (j0, nj), (k0, kk), lines),
        }
    }

    /// Whether the left operand is read where it lies: f32 rows in whole register tiles need not move, rows that share their
    /// sets of the cache do.
    fn left_stays(&self, i0: usize, pm: usize) -> bool {
        self.form != Form::TN
            && self.a.dtype() == DType::F32
            && i0 + pm <= self.a.rows()
            && !(self.a.stride() * 4).is_multiple_of(4096)
    }

    /// Whether the right operand is: rows of whole panels that too few rows of `a` would pay for packing.
    fn right_stays(&self, m: usize, n: usize) -> bool {
        self.form != Form::NT
            && self.b.dtype() == DType::F32
            && n.is_multiple_of(self.micro.nr)
            && m < 256
            && !(self.b.stride() * 4).is_multiple_of(4096)
    }

    /// Copies inner indices `k0..k0 + kk` of rows `i0..i0 + mi` of the left operand, as f32 or pairs: rows of `a` stay rows.
    fn copy_left(&self, out: &mut [f32], (i0, mi, pm): (usize, usize, usize), (k0, kk): (usize, usize)) {
        let depth = self.depth(kk);
        match (self.form, self.paired) {
            (Form::TN, false) => {
                for (p, out) in out.chunks_exact_mut(pm).take(depth).enumerate() {
                    simd::prefetch_rows(self.a, k0 + p + AHEAD, 1, (i0, mi));
                    load(&mut out[..mi], self.a, k0 + p, i0);
                }
            }
            (Form::TN, true) => {
                for (p, out) in out.chunks_exact_mut(pm).take(depth).enumerate() {
                    simd::prefetch_rows(self.a, k0 + 2 * p + AHEAD, 2, (i0, mi));
                    pairs_down(&mut out[..mi], self.a, k0 + 2 * p, i0, 2 * p + 1 == kk);
                }
            }
            (_, false) => {
                for (i, out) in out.chunks_exact_mut(depth).take(mi).enumerate() {
                    load(out, self.a, i0 + i, k0);
                }
            }
            (_, true) => {
                for (i, out) in out.chunks_exact_mut(depth).take(mi).enumerate() {
                    pairs_along(out, self.a, i0 + i, k0, kk);
                }
            }
        }
    }

    /// The product of inner indices `k0..k0 + kk` alone, to `y`.
    fn part(&self, y: Tensor, k0: usize, kk: usize) -> Self {
        let along = |x: Tensor| x.slice_cols(k0..k0 + kk);
        let down = |x: Tensor| x.slice_rows(k0..k0 + kk);
        let a = if self.form == Form::TN { down(self.a) } else { along(self.a) };
        let b = if self.form == Form::NT { along(self.b) } else { down(self.b) };
        Self { y, a, b, k: kk, epilogue: Epilogue::NONE, ..*self }
    }

    /// Rows `i0..i0 + mi`, columns `j0..j0 + nj` of the product.
    fn task(&self, (i0, mi): (usize, usize), (j0, nj): (usize, usize), source: Source) {
        let Self { micro, k, .. } = *self;
        let (pm, pn) = (mi.next_multiple_of(micro.mr), nj.next_multiple_of(micro.nr));
        // A step takes the whole inner size, tile by tile, or one block of it.
        let whole = k <= WHOLE;
        let step = if whole { k.max(1) } else { KC };
        let depth = self.depth(step);
        let stay = self.left_stays(i0, pm);
        let lens = [
            if stay { 0 } else { pm * depth },
            if matches!(source, Source::Task) { pn * depth } else { 0 },
            if whole { micro.mr * micro.nr } else { pm * pn },
            LINES.max(micro.nr * depth),
        ];
        let places = match whole {
            true => Places { down: 0, right: 0, ldc: micro.nr, by_rows: true },
            false => Places { down: micro.mr * pn, right: micro.nr, ldc: pn, by_rows: false },
        };
        with_buffers(lens, |[pa, pb, c, lines]| {
            if k == 0 {
                c.fill(0.0);
                for (i, j) in tiles_of((mi, nj), (micro.mr, micro.nr)) {
                    let size = (micro.mr.min(mi - i), micro.nr.min(nj - j));
                    self.finish(c, micro.nr, (i0 + i, j0 + j), size, lines);
                }
            }
            for k0 in (0..k).step_by(step) {
                let kk = step.min(k - k0);
                let depth = self.depth(kk);
                if !stay {
                    self.copy_left(pa, (i0, mi, pm), (k0, kk));
                }
                let left = match (self.form, stay) {
                    (Form::TN, _) => Left { data: pa, row: 1, inner: pm },
                    (_, false) => Left { data: pa, row: depth, inner: 1 },
                    (_, true) => {
                        let stride = self.a.stride();
                        // SAFETY: `pm` rows of the operand, `kk` values of each; nobody writes to it meanwhile.
                        let data = unsafe { block(self.a, (i0, k0), (pm - 1) * stride + kk) };
                        Left { data, row: stride, inner: 1 }
                    }
                };
                let right = match source {
                    Source::Own => {
                        let inner = self.b.stride();
                        // SAFETY: `kk` rows of the operand, `nj` values of each.
                        let data = unsafe { block(self.b, (k0, j0), (kk - 1) * inner + nj) };
                        Right { data, inner, panel: micro.nr }
                    }
                    Source::Shared(packed, first) => {
                        let panel = micro.nr * self.depth(k);
                        let at = (j0 - first) / micro.nr * panel + self.depth(k0) * micro.nr;
                        Right { data: &packed[at..], inner: micro.nr, panel }
                    }
                    Source::Task => {
                        self.pack(pb, (j0, nj), (k0, kk), lines);
                        Right::packed(pb, micro.nr, depth)
                    }
                };
                let sum = if k0 == 0 { Sum::New } else { Sum::More };
                let last = k0 + kk == k;
                // What comes from far is called for while a tile is computed.
                let before = |i: usize, j: usize| {
                    let rows = (i0 + i * micro.mr, micro.mr.min(mi - i * micro.mr));
                    if last {
                        let cols = (j0 + j * micro.nr, micro.nr.min(nj - j * micro.nr));
                        simd::prefetch_rows(self.epilogue.plus.unwrap_or(self.y), rows.0, rows.1, cols);
                    } else if stay && j == 0 {
                        simd::prefetch_rows(self.a, rows.0, rows.1, (k0 + kk, step.min(k - k0 - kk)));
                    }
                };
                let size = (mi, nj, depth);
                micro.tiles(size, self.depth(KC), left, right, c, places, sum, before, |i, j, c| {
                    if last {
                        let (r, q) = (i * micro.mr, j * micro.nr);
                        let size = (micro.mr.min(mi - r), micro.nr.min(nj - q));
                        self.finish(c, places.ldc, (i0 + r, j0 + q), size, lines);
                    }
                });
            }
        });
    }

    /// Applies the epilogue to a tile, rows `ldc` apart, and stores it.
    fn finish(
        &self,
        c: &mut [f32],
        ldc: usize,
        (i0, j0): (usize, usize),
        (rows, cols): (usize, usize),
        line: &mut [f32],
    ) {
        let Epilogue { bias, activation, plus } = self.epilogue;
        #[cfg(target_arch = "x86_64")]
        if bias.is_none() && activation.is_none() {
            let (y, size) = (self.y.slice_rows(i0..i0 + rows), j0..j0 + cols);
            let plus = plus.map(|plus| plus.slice_rows(i0..i0 + rows).slice_cols(size.clone()));
            if x86::finish(c, ldc, y.slice_cols(size), plus) {
                return;
            }
        }
        for r in 0..rows {
            let out = &mut c[r * ldc..][..cols];
            if let Some(bias) = bias {
                simd::add(out, view(line, bias, 0, j0, cols));
            }
            match activation {
                Some(Activation::Gelu) => simd::gelu_all(out),
                Some(Activation::Silu) => simd::silu_all(out),
                None => {}
            }
            if let Some(plus) = plus {
                simd::add(out, view(line, plus, i0 + r, j0, cols));
            }
            store(self.y, i0 + r, j0, out);
        }
    }
}

impl Matmul for Cpu {
    fn matmul(&self, y: Tensor, a: Tensor, b: Tensor, form: Form, epilogue: Epilogue) {
        let (m, k) = if form == Form::TN { (a.cols(), a.rows()) } else { (a.rows(), a.cols()) };
        let n = if form == Form::NT { b.rows() } else { b.cols() };
        assert_eq!(
            if form == Form::NT { b.cols() } else { b.rows() },
            k,
            "inner sizes of {a:?} and {b:?}, {form:?}"
        );
        shape!(y, m, n);
        if let Some(bias) = epilogue.bias {
            shape!(bias, 1, n);
        }
        if let Some(plus) = epilogue.plus {
            shape!(plus, m, n);
        }
        if m == 0 || n == 0 {
            return;
        }
        // Both operands in bf16: pairs of values as they are, half the packing and twice the products an instruction.
        let pairs = if (a.dtype(), b.dtype()) == (DType::BF16, DType::BF16) { Micro::pairs() } else { None };
        let (micro, paired) = (pairs.unwrap_or_else(Micro::get), pairs.is_some());
        let product = Product { y, a, b, form, epilogue, micro, paired, k };
        let threads = if m * n * k < 1 << 15 { 1 } else { self.threads() };
        let each = |tasks: usize, task: &(dyn Fn(usize) + Sync)| match threads {
            1 => (0..tasks).for_each(task),
            _ => self.each(tasks, task),
        };
        // All tasks of columns `first..first + count`.
        let multiply = |first: usize, count: usize, source: Source| {
            let (tm, tn) = tile((m, count, k), &micro, threads);
            let across = count.div_ceil(tn);
            each(m.div_ceil(tm) * across, &|i| {
                let (i0, j0) = (i / across * tm, i % across * tn);
                product.task((i0, tm.min(m - i0)), (first + j0, tn.min(count - j0)), source);
            });
        };
        if m * n <= DEEP.0 && k >= DEEP.1 {
            return self.deep(&product, (m, n), &each);
        }
        if product.right_stays(m, n) {
            return multiply(0, n, Source::Own);
        }
        if k == 0 || tile((m, n, k), &micro, threads).0 >= m {
            return multiply(0, n, Source::Task);
        }
        let panel = micro.nr * product.depth(k);
        let strip = (PACKED / (4 * panel)).max(1) * micro.nr;
        let mut packed = self.take_packed();
        for first in (0..n).step_by(strip) {
            let count = strip.min(n - first);
            let panels = count.div_ceil(micro.nr);
            if packed.len() < panels * panel {
                packed.resize(panels * panel, 0.0);
            }
            let blocks = k.div_ceil(KC);
            let place = Parts(packed.as_mut_ptr() as usize);
            each(panels * blocks, &|i| {
                let (q, k0) = (i / blocks, i % blocks * KC);
                let (j, kk) = (q * micro.nr, KC.min(k - k0));
                let (at, len) = (q * panel + product.depth(k0) * micro.nr, product.depth(kk) * micro.nr);
                // SAFETY: inside the buffer, and every task has its own part.
                let out = unsafe { place.at(at, len) };
                with_buffers([LINES], |[lines]| {
                    product.pack(out, (first + j, micro.nr.min(count - j)), (k0, kk), lines);
                });
            });
            multiply(first, count, Source::Shared(&packed, first));
        }
        self.put_packed(packed);
    }
}

impl Cpu {
    /// A product of few elements and a large inner size. Its blocks of the inner size are tasks, so that each operand is
    /// packed once and used from L2; their results are added up in order, some blocks at a time.
    fn deep(&self, product: &Product, (m, n): (usize, usize), each: &Each) {
        let (blocks, size, nr) = (product.k.div_ceil(KC), m * n, product.micro.nr);
        let wave = (PACKED / 4 / size).clamp(1, blocks);
        let mut packed = self.take_packed();
        packed.resize(packed.len().max((1 + wave) * size), 0.0);
        let place = Parts(packed.as_mut_ptr() as usize);
        for first in (0..blocks).step_by(wave) {
            let count = wave.min(blocks - first);
            each(count, &|i| {
                let k0 = (first + i) * KC;
                let y = Tensor::new(place.0 + 4 * (1 + i) * size, DType::F32, m, n);
                product.part(y, k0, KC.min(product.k - k0)).task((0, m), (0, n), Source::Task);
            });
            each(m, &|r| {
                // SAFETY: a task's own row of the sums, and rows of blocks that nobody writes any more.
                let row = |i: usize| unsafe { place.at(i * size + r * n, n) };
                let sum = row(0);
                for i in 0..count {
                    match first + i {
                        0 => sum.copy_from_slice(row(1)),
                        _ => simd::add(sum, row(1 + i)),
                    }
                }
                if first + count == blocks {
                    with_buffers([LINES], |[line]| {
                        for (j, sum) in sum.chunks_mut(nr).enumerate() {
                            let len = sum.len();
                            product.finish(sum, len, (r, j * nr), (1, len), line);
                        }
                    });
                }
            });
        }
        self.put_packed(packed);
    }

    /// The buffer that the tasks of a product share. (A product beside another one has its own.)
    fn take_packed(&self) -> Vec<f32> {
        std::mem::take(&mut *self.packed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put_packed(&self, packed: Vec<f32>) {
        *self.packed.lock().unwrap_or_else(PoisonError::into_inner) = packed;
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use crate::cpu::simd::{Level, level};
    use crate::tensor::{DType, Tensor};
    use std::arch::x86_64::*;

    /// Rows of f32 or bf16 in memory: the address of the first element, and elements from one row to the next.
    #[derive(Clone, Copy)]
    enum Rows {
        None,
        F32(usize, usize),
        Bf16(usize, usize),
    }

    impl Rows {
        fn of(x: Tensor) -> Option<Self> {
            match x.dtype() {
                DType::F32 => Some(Self::F32(x.addr(), x.stride())),
                DType::BF16 => Some(Self::Bf16(x.addr(), x.stride())),
                _ => None,
            }
        }
    }

    /// `y = c + plus`, rounded to the dtype of `y`, for rows of 32 columns of f32 or bf16, rows of `c` `ldc` apart: a tile of
    /// a product, its task's own. What compilers make of loops over so few columns takes a fifth of the time of a small
    /// product. False: it is no such tile, or there is no AVX-512, and nothing was done.
    #[inline]
    pub(super) fn finish(c: &[f32], ldc: usize, y: Tensor, plus: Option<Tensor>) -> bool {
        let rows = y.rows();
        if y.cols() != 32 || rows == 0 || level() != Level::Avx512 {
            return false;
        }
        let (Some(to), Some(plus)) = (Rows::of(y), plus.map_or(Some(Rows::None), Rows::of)) else {
            return false;
        };
        assert!(c.len() >= (rows - 1) * ldc + 32);
        // SAFETY: the level says so; `c` is long enough; the tile of the output is this task's.
        unsafe { finish_rows(c.as_ptr(), ldc, rows, to, plus) };
        true
    }

    /// # Safety
    /// The machine has AVX-512; `c` holds the rows; `y` and `plus` are rows that nobody else touches.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn finish_rows(c: *const f32, ldc: usize, rows: usize, y: Rows, plus: Rows) {
        for i in 0..2 * rows {
            let (r, j) = (i / 2, i % 2 * 16);
            // SAFETY: the caller's promise.
            unsafe {
                let mut x = _mm512_loadu_ps(c.add(r * ldc + j));
                match plus {
                    Rows::None => {}
                    Rows::F32(addr, stride) => {
                        x = _mm512_add_ps(x, _mm512_loadu_ps((addr as *const f32).add(r * stride + j)));
                    }
                    Rows::Bf16(addr, stride) => {
                        let half = _mm256_loadu_si256((addr as *const u16).add(r * stride + j).cast());
                        let wide = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half));
                        x = _mm512_add_ps(x, _mm512_castsi512_ps(wide));
                    }
                }
                match y {
                    Rows::None => {}
                    Rows::F32(addr, stride) => _mm512_storeu_ps((addr as *mut f32).add(r * stride + j), x),
                    Rows::Bf16(addr, stride) => {
                        let place = (addr as *mut u16).add(r * stride + j);
                        _mm256_storeu_si256(place.cast(), bf16(x));
                    }
                }
            }
        }
    }

    /// As `simd::bf16`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn bf16(x: __m512) -> __m256i {
        let bits = _mm512_castps_si512(x);
        let upper = _mm512_srli_epi32::<16>(bits);
        let odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
        let half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
        let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, half));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40)))
    }
}
