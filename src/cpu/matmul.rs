//! Matrix products: output tiles are tasks; each packs its operand blocks, accumulates in f32 and writes once.

use super::gemm::{KC, LINES, Left, Micro, block, pack_across, pack_cols, pack_lines, pack_rows};
use super::rows::{load, pairs_along, pairs_down, shape, store, view, with_buffers};
use super::{Cpu, simd};
use crate::ops::matmul::{Activation, Epilogue, Form, Matmul};
use crate::tensor::{DType, Tensor};

/// Largest output tile of a task: with its operand blocks it fits half a megabyte of L2.
const TILE: (usize, usize) = (192, 128);

/// Output tile for `[m, n]`: halved until there is work for `threads`, never below a register tile. Bits do not depend on it.
fn tile(m: usize, n: usize, micro: &Micro, threads: usize) -> (usize, usize) {
    let (mut tm, mut tn) = (TILE.0.min(m), TILE.1.min(n));
    while m.div_ceil(tm) * n.div_ceil(tn) < 4 * threads {
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

impl Matmul for Cpu {
    fn matmul(&self, y: Tensor, a: Tensor, b: Tensor, form: Form, epilogue: Epilogue) {
        let Epilogue { bias, activation, plus } = epilogue;
        let (m, k) = if form == Form::TN { (a.cols(), a.rows()) } else { (a.rows(), a.cols()) };
        let n = if form == Form::NT { b.rows() } else { b.cols() };
        assert_eq!(
            if form == Form::NT { b.cols() } else { b.rows() },
            k,
            "inner sizes of {a:?} and {b:?}, {form:?}"
        );
        shape!(y, m, n);
        if let Some(bias) = bias {
            shape!(bias, 1, n);
        }
        if let Some(plus) = plus {
            shape!(plus, m, n);
        }
        if m == 0 || n == 0 {
            return;
        }
        // Both operands in bf16: pairs of values as they are, half the packing and twice the products an instruction.
        let pairs = if (a.dtype(), b.dtype()) == (DType::BF16, DType::BF16) { Micro::pairs() } else { None };
        let (micro, paired) = (pairs.unwrap_or_else(Micro::get), pairs.is_some());
        let threads = if m * n * k < 1 << 15 { 1 } else { self.threads() };
        let (tm, tn) =
            if threads == 1 { (TILE.0.min(m), TILE.1.min(n)) } else { tile(m, n, &micro, threads) };
        let across = n.div_ceil(tn);
        let task = |i: usize| {
            let (i0, j0) = (i / across * tm, i % across * tn);
            let (mi, nj) = (tm.min(m - i0), tn.min(n - j0));
            let (pm, pn) = (mi.next_multiple_of(micro.mr), nj.next_multiple_of(micro.nr));
            let kc = KC.min(k);
            with_buffers([pm * kc, pn * kc, pm * pn, LINES], |[pa, pb, c, lines]| {
                c.fill(0.0);
                for k0 in (0..k).step_by(KC) {
                    let kk = KC.min(k - k0);
                    // The left operand is read where it lies: it only becomes f32, in rows of `a`.
                    let depth = if paired { kk.div_ceil(2) } else { kk };
                    // f32 rows in whole register tiles need not move; rows that share their sets of the cache do.
                    let stay = form != Form::TN
                        && a.dtype() == DType::F32
                        && i0 + pm <= a.rows()
                        && !(a.stride() * 4).is_multiple_of(4096);
                    let (count, row, inner) = match form {
                        Form::TN => (depth, 1, pm),
                        _ if stay => (0, a.stride(), 1),
                        _ => (mi, depth, 1),
                    };
                    // Whether inner index `p` is a last value without a second one.
                    let alone = |p: usize| 2 * p + 1 == kk;
                    for i in 0..count {
                        match (form, paired) {
                            (Form::TN, false) => load(&mut pa[i * pm..][..mi], a, k0 + i, i0),
                            (Form::TN, true) => {
                                pairs_down(&mut pa[i * pm..][..mi], a, k0 + 2 * i, i0, alone(i));
                            }
                            (_, false) => load(&mut pa[i * kk..][..kk], a, i0 + i, k0),
                            (_, true) => pairs_along(&mut pa[i * depth..][..depth], a, i0 + i, k0, kk),
                        }
                    }
                    match (form, paired) {
                        (Form::NT, false) => pack_rows(pb, micro.nr, b, (j0, nj), (k0, kk), lines),
                        (Form::NT, true) => pack_lines(pb, micro.nr, nj, depth, lines, |i, line| {
                            pairs_along(line, b, j0 + i, k0, kk);
                        }),
                        (_, false) => pack_cols(pb, micro.nr, b, (j0, nj), (k0, kk), lines),
                        (_, true) => pack_across(pb, micro.nr, nj, depth, lines, |p, line| {
                            pairs_down(line, b, k0 + 2 * p, j0, alone(p));
                        }),
                    }
                    let data: &[f32] = match stay {
                        // SAFETY: `pm` rows of the operand, `kk` values of each; ops read what nobody writes meanwhile.
                        true => unsafe { block(a, (i0, k0), (pm - 1) * a.stride() + kk) },
                        false => pa,
                    };
                    let left = Left { data, row, inner };
                    micro.block(mi, nj, depth, left, pb, c, pn);
                }
                for r in 0..mi {
                    let out = &mut c[r * pn..][..nj];
                    if let Some(bias) = bias {
                        simd::add(out, view(lines, bias, 0, j0, nj));
                    }
                    match activation {
                        Some(Activation::Gelu) => simd::gelu_all(out),
                        Some(Activation::Silu) => simd::silu_all(out),
                        None => {}
                    }
                    if let Some(plus) = plus {
                        simd::add(out, view(lines, plus, i0 + r, j0, nj));
                    }
                    store(y, i0 + r, j0, out);
                }
            });
        };
        let tasks = m.div_ceil(tm) * across;
        if threads == 1 { (0..tasks).for_each(task) } else { self.each(tasks, task) }
    }
}
