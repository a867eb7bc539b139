//! The final norm and the vocabulary, at the rows that predict something and nowhere else.

use super::Model;
use super::acts::{Input, View};
use super::params::Params;
use crate::ops::norm::bwd_scratch_rows;
use crate::ops::{Device, Epilogue, Form};
use crate::tensor::Tensor;

/// Gathers the predicting rows of the residual stream, if the last block did not pick them, and norms them.
fn pick(device: &dyn Device, model: &Model, view: &View, input: &Input) -> (Tensor, Tensor, Tensor) {
    let n = input.unique.cols();
    let (picked, normed) = (view.picked.slice_rows(0..n), view.normed.slice_rows(0..n));
    let rstd = view.rstd.slice_rows(0..n);
    if input.picked.is_none() {
        device.gather_rows(picked, view.stream(model.config.layers), input.unique);
    }
    device.rms_norm_fwd(normed, rstd, picked, model.params.norm, model.config.eps);
    (picked, normed, rstd)
}

/// Losses of the asks, gradients of norm and head added to `grads`, that of the stream set in `view.dx`.
pub(super) fn loss(device: &dyn Device, model: &Model, view: &View, input: &Input, grads: &Params) {
    let (picked, normed, rstd) = pick(device, model, view, input);
    let n = picked.rows();
    assert_eq!(n, input.targets.cols(), "in training every row has one target");
    let losses = view.values.slice_cols(0..n);
    let p = &model.params;
    device.linear_cross_entropy(
        losses,
        normed,
        grads.head,
        normed,
        p.head,
        input.targets,
        input.scale,
        view.logits,
    );
    let back = view.back.expect("training has its scratch");
    let scratch = back.norm.slice_rows(0..bwd_scratch_rows(n));
    device.rms_norm_bwd(normed, grads.norm, normed, picked, p.norm, rstd, None, scratch);
    device.scatter_rows(view.dx, normed, input.unique);
}

/// Log-probability of every ask's target, `[1, asks]` f32, and the likeliest token, `[1, asks]` u32.
pub(super) fn predict(device: &dyn Device, model: &Model, view: &View, input: &Input) -> (Tensor, Tensor) {
    let n = input.rows.cols();
    let (_, normed, _) = pick(device, model, view, input);
    let (values, best) = (view.values.slice_cols(0..n), view.best.slice_cols(0..n));
    device.linear_logprob(values, best, normed, model.params.head, input.rows, input.targets, view.logits);
    (values, best)
}

/// Logits of the distinct predicting rows, `[rows, v]`.
pub(super) fn logits(device: &dyn Device, model: &Model, view: &View, input: &Input) -> Vec<f32> {
    let (_, normed, _) = pick(device, model, view, input);
    let v = model.config.vocab;
    let mut out = vec![0f32; input.distinct * v];
    for (r, out) in out.chunks_exact_mut(v).enumerate() {
        let row = view.logits.slice_rows(0..1);
        device.matmul(row, normed.slice_rows(r..r + 1), model.params.head, Form::NT, Epilogue::NONE);
        device.read(bytemuck::cast_slice_mut(out), row);
    }
    out
}
