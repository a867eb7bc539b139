//! One transformer block, forward and backward, mirrored: the numbered steps of one are those of the other in reverse.

use super::Model;
use super::acts::{BlockActs, Input, Picked, Recompute, View};
use super::params::Block;
use crate::ops::{Device, Epilogue, Form, Heads};
use crate::tensor::Tensor;

/// Column views of the query, key and value parts.
struct Qkv {
    q: Tensor,
    k: Tensor,
    v: Tensor,
}

fn heads(model: &Model, l: usize) -> Heads {
    let c = &model.config;
    Heads {
        query: c.heads,
        kv: c.kv_heads,
        size: c.head_size,
        scale: 1.0 / (c.head_size as f32).sqrt(),
        window: c.windows[l],
    }
}

/// The parts of a `[t, (h + 2 g) k]` tensor.
fn split(model: &Model, x: Tensor) -> Qkv {
    let c = &model.config;
    let (q, kv) = (c.heads * c.head_size, c.kv_heads * c.head_size);
    Qkv { q: x.slice_cols(0..q), k: x.slice_cols(q..q + kv), v: x.slice_cols(q + kv..q + 2 * kv) }
}

/// What attention reads: the rotated queries and keys, and the values.
fn attended(model: &Model, a: &BlockActs) -> Qkv {
    let parts = split(model, a.qkv);
    match a.qk {
        None => parts,
        Some((qk, _, _)) => {
            let q = model.config.heads * model.config.head_size;
            Qkv { q: qk.slice_cols(0..q), k: qk.slice_cols(q..qk.cols()), v: parts.v }
        }
    }
}

/// Block `l`: reads the residual stream `l`, writes `l + 1`.
pub(super) fn forward(device: &dyn Device, model: &Model, l: usize, view: &View, input: &Input) {
    let (p, a) = (&model.params.blocks[l], view.block(l));
    inner(device, model, l, view, input);
    // 9: feed-forward output and residual
    device.matmul(view.stream(l + 1), a.act, p.down, Form::NT, Epilogue::add(p.down_bias, Some(a.mid)));
}

/// Steps 1 to 8: everything that the backward pass needs.
fn inner(device: &dyn Device, model: &Model, l: usize, view: &View, input: &Input) {
    let (p, a, x, eps) = (&model.params.blocks[l], view.block(l), view.stream(l), model.config.eps);
    // 1, 2: norm and projections
    device.rms_norm_fwd(a.h1, a.rstd1, x, p.norm1, eps);
    device.matmul(a.qkv, a.h1, p.qkv, Form::NT, Epilogue::add(p.qkv_bias, None));
    // 3: query and key norms, rotation
    let qkv = attended(model, a);
    if let (Some((_, q_rstd, k_rstd)), Some(q_norm), Some(k_norm)) = (a.qk, p.q_norm, p.k_norm) {
        let raw = split(model, a.qkv);
        device.rms_norm_fwd(qkv.q, q_rstd, raw.q, q_norm, eps);
        device.rms_norm_fwd(qkv.k, k_rstd, raw.k, k_norm, eps);
    }
    device.rope(qkv.q, input.positions, model.rope, false);
    device.rope(qkv.k, input.positions, model.rope, false);
    let (k, v) = cached(device, l, input, &qkv);
    // 4, 5: attention, its output projection and residual
    device.attention_fwd(a.o, a.lse, qkv.q, k, v, &input.forest(), heads(model, l));
    device.matmul(a.mid, a.o, p.out, Form::NT, Epilogue::add(p.out_bias, Some(x)));
    // 6, 7, 8: norm, gate and up, their product
    device.rms_norm_fwd(a.h2, a.rstd2, a.mid, p.norm2, eps);
    gate_up(device, model, l, a);
    device.swiglu_fwd(a.act, a.gate_up);
}

/// Keys and values that attention reads: the batch's own, or a cache which they join.
fn cached(device: &dyn Device, l: usize, input: &Input, own: &Qkv) -> (Tensor, Tensor) {
    let Some((cache, slots)) = &input.cache else { return (own.k, own.v) };
    let (k, v) = cache.layer(l);
    device.put_rows(k, own.k, *slots);
    device.put_rows(v, own.v, *slots);
    (k, v)
}

/// The last block of a prediction: keys and values of all rows, everything else at the rows that predict, with the same bits.
/// What comes out is in `view.picked`.
pub(super) fn forward_picked(
    device: &dyn Device,
    model: &Model,
    l: usize,
    view: &View,
    input: &Input,
    picked: &Picked,
) {
    let (c, x, eps) = (&model.config, view.stream(l), model.config.eps);
    let (p, all) = (&model.params.blocks[l], view.block(l));
    let n = input.unique.cols();
    let (some, out) = (all.rows(n), view.picked.slice_rows(0..n));
    // 1, 2
    device.rms_norm_fwd(all.h1, all.rstd1, x, p.norm1, eps);
    device.gather_rows(some.h2, all.h1, input.unique);
    let q = c.heads * c.head_size;
    for (y, h, part) in [(some.qkv, some.h2, 0..q), (all.qkv, all.h1, q..c.qkv_cols())] {
        let bias = p.qkv_bias.map(|b| b.slice_cols(part.clone()));
        let w = p.qkv.slice_rows(part.clone());
        device.matmul(y.slice_cols(part), h, w, Form::NT, Epilogue::add(bias, None));
    }
    // 3
    let qkv = Qkv { q: attended(model, &some).q, ..attended(model, all) };
    if let (Some((_, q_rstd, k_rstd)), Some(q_norm), Some(k_norm)) = (all.qk, p.q_norm, p.k_norm) {
        let raw = split(model, all.qkv);
        device.rms_norm_fwd(qkv.q, q_rstd.slice_rows(0..n), raw.q.slice_rows(0..n), q_norm, eps);
        device.rms_norm_fwd(qkv.k, k_rstd, raw.k, k_norm, eps);
    }
    device.rope(qkv.q, picked.positions, model.rope, false);
    device.rope(qkv.k, input.positions, model.rope, false);
    // 4, 5
    let (k, v) = cached(device, l, input, &qkv);
    device.attention_fwd(some.o, some.lse, qkv.q, k, v, &picked.forest(), heads(model, l));
    device.gather_rows(out, x, input.unique);
    device.matmul(some.mid, some.o, p.out, Form::NT, Epilogue::add(p.out_bias, Some(out)));
    // 6, 7, 8, 9
    device.rms_norm_fwd(some.h2, some.rstd2, some.mid, p.norm2, eps);
    gate_up(device, model, l, &some);
    device.swiglu_fwd(some.act, some.gate_up);
    device.matmul(out, some.act, p.down, Form::NT, Epilogue::add(p.down_bias, Some(some.mid)));
}

/// Step 7.
fn gate_up(device: &dyn Device, model: &Model, l: usize, a: &BlockActs) {
    let p = &model.params.blocks[l];
    device.matmul(a.gate_up, a.h2, p.gate_up, Form::NT, Epilogue::add(p.gate_up_bias, None));
}

/// Computes again what the backward pass of block `l` needs and the forward pass did not keep.
fn again(device: &dyn Device, model: &Model, l: usize, view: &View, input: &Input) {
    let (p, a, eps) = (&model.params.blocks[l], view.block(l), model.config.eps);
    let recompute = view.train.expect("a backward pass is part of training");
    match recompute {
        Recompute::None => {}
        Recompute::Block => inner(device, model, l, view, input),
        Recompute::Lean | Recompute::Ffn => {
            device.rms_norm_fwd(a.h1, a.rstd1, view.stream(l), p.norm1, eps);
            device.rms_norm_fwd(a.h2, a.rstd2, a.mid, p.norm2, eps);
            if recompute == Recompute::Ffn {
                gate_up(device, model, l, a);
            }
            device.swiglu_fwd(a.act, a.gate_up);
        }
    }
}

/// Gradients of a projection `y = x w^T + b`: added to `dw` and `db`.
fn weight_gradients(device: &dyn Device, dw: Tensor, db: Option<Tensor>, dy: Tensor, x: Tensor) {
    device.matmul(dw, dy, x, Form::TN, Epilogue::add(None, Some(dw)));
    if let Some(db) = db {
        device.sum_rows(db, dy);
    }
}

/// Takes `view.dx` from the gradient of stream `l + 1` to that of stream `l`, adding the parameters' gradients to `g`.
pub(super) fn backward(device: &dyn Device, model: &Model, l: usize, view: &View, input: &Input, g: &Block) {
    again(device, model, l, view, input);
    let (p, a, x, dx) = (&model.params.blocks[l], view.block(l), view.stream(l), view.dx);
    let b = view.back.expect("a backward pass has its scratch");
    // 9: dx is both the residual's and the down projection's output gradient
    device.matmul(b.dact, dx, p.down, Form::NN, Epilogue::NONE);
    weight_gradients(device, g.down, g.down_bias, dx, a.act);
    // 8, 7, 6
    device.swiglu_bwd(a.gate_up, b.dact, a.gate_up);
    device.matmul(b.dh, a.gate_up, p.gate_up, Form::NN, Epilogue::NONE);
    weight_gradients(device, g.gate_up, g.gate_up_bias, a.gate_up, a.h2);
    device.rms_norm_bwd(dx, g.norm2, b.dh, a.mid, p.norm2, a.rstd2, Some(dx), b.norm);
    // 5, 4
    device.matmul(b.do_, dx, p.out, Form::NN, Epilogue::NONE);
    weight_gradients(device, g.out, g.out_bias, dx, a.o);
    let (qkv, d) = (attended(model, a), split(model, b.dqkv));
    let h = heads(model, l);
    device.attention_bwd(d.q, d.k, d.v, b.do_, qkv.q, qkv.k, qkv.v, a.o, a.lse, &input.forest(), h, b.delta);
    // 3
    device.rope(d.q, input.positions, model.rope, true);
    device.rope(d.k, input.positions, model.rope, true);
    if let Some((_, q_rstd, k_rstd)) = a.qk {
        let raw = split(model, a.qkv);
        let pairs = [(d.q, g.q_norm, raw.q, p.q_norm, q_rstd), (d.k, g.k_norm, raw.k, p.k_norm, k_rstd)];
        for (d, dw, x, w, rstd) in pairs {
            let (dw, w) = (dw.expect("q/k norm"), w.expect("q/k norm"));
            device.rms_norm_bwd(d, dw, d, x, w, rstd, None, b.head_norm);
        }
    }
    // 2, 1
    device.matmul(b.dh, b.dqkv, p.qkv, Form::NN, Epilogue::NONE);
    weight_gradients(device, g.qkv, g.qkv_bias, b.dqkv, a.h1);
    device.rms_norm_bwd(dx, g.norm1, b.dh, x, p.norm1, a.rstd1, Some(dx), b.norm);
}
