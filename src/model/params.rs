//! The parameters of a model: named handles into one arena.
//!
//! Weights, gradients, moments and master copies are all `Params`. Query, key and value projections lie one after the other
//! and are one matrix to the passes; so do gate and up. Everything that weight decay touches comes first.

use super::config::Config;
use crate::arena::Arena;
use crate::tensor::{DType, Tensor};

/// One block's parameters; `[out, in]` matrices as in the checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// Norm before attention, `[1, d]`.
    pub norm1: Tensor,
    /// Query, key and value projections, `[(h + 2 g) k, d]`.
    pub qkv: Tensor,
    /// Their biases, `[1, (h + 2 g) k]`.
    pub qkv_bias: Option<Tensor>,
    /// Norm of the query heads, `[1, k]`.
    pub q_norm: Option<Tensor>,
    /// Norm of the key heads, `[1, k]`.
    pub k_norm: Option<Tensor>,
    /// Attention output projection, `[d, h k]`.
    pub out: Tensor,
    /// Its bias, `[1, d]`.
    pub out_bias: Option<Tensor>,
    /// Norm before the feed-forward, `[1, d]`.
    pub norm2: Tensor,
    /// Gate and up projections, `[2 f, d]`.
    pub gate_up: Tensor,
    /// Their biases, `[1, 2 f]`.
    pub gate_up_bias: Option<Tensor>,
    /// Down projection, `[d, f]`.
    pub down: Tensor,
    /// Its bias, `[1, d]`.
    pub down_bias: Option<Tensor>,
}

/// All parameters, or as many values that belong to them.
#[derive(Clone, Debug)]
pub struct Params {
    /// Token embedding, `[v, d]`.
    pub embed: Tensor,
    /// The blocks.
    pub blocks: Vec<Block>,
    /// Final norm, `[1, d]`.
    pub norm: Tensor,
    /// Output head, `[v, d]`: the embedding where they are tied.
    pub head: Tensor,
    /// The flat range of everything that weight decay touches: matrices except the embedding.
    pub decayed: Tensor,
    /// The flat range of the rest: embedding, norms, biases.
    pub plain: Tensor,
    /// Both ranges.
    pub all: Tensor,
}

/// A parameter under its checkpoint name.
#[derive(Clone, Debug)]
pub struct Named {
    /// The name in Hugging Face checkpoints.
    pub name: String,
    /// Its part of the arena, `[out, in]` or `[1, n]`.
    pub tensor: Tensor,
    /// The shape in the checkpoint.
    pub shape: Vec<usize>,
}

impl Params {
    /// Takes all parameters from `arena`, counted under `name`.
    pub fn carve(c: &Config, arena: &mut Arena, name: &str, dtype: DType) -> Self {
        let (d, hk, f) = (c.hidden, c.heads * c.head_size, c.ffn);
        let start = arena.used();
        let mut take = |rows, cols| arena.take(name, dtype, rows, cols);
        let matrices: Vec<[Tensor; 4]> =
            (0..c.layers).map(|_| [take(c.qkv_cols(), d), take(d, hk), take(2 * f, d), take(d, f)]).collect();
        let untied = (!c.tied).then(|| take(c.vocab, d));
        let middle = arena.used();
        let mut take = |rows, cols| arena.take(name, dtype, rows, cols);
        let embed = take(c.vocab, d);
        let mut vector = |wanted: bool, n: usize| wanted.then(|| take(1, n));
        let mut blocks = Vec::with_capacity(c.layers);
        for [qkv, out, gate_up, down] in matrices {
            blocks.push(Block {
                qkv,
                out,
                gate_up,
                down,
                norm1: vector(true, d).expect("wanted"),
                norm2: vector(true, d).expect("wanted"),
                qkv_bias: vector(c.qkv_bias, c.qkv_cols()),
                q_norm: vector(c.qk_norm, c.head_size),
                k_norm: vector(c.qk_norm, c.head_size),
                out_bias: vector(c.out_bias, d),
                gate_up_bias: vector(c.mlp_bias, 2 * f),
                down_bias: vector(c.mlp_bias, d),
            });
        }
        let norm = vector(true, d).expect("wanted");
        let (all, plain) = (arena.span(start, dtype), arena.span(middle, dtype));
        let decayed = all.slice_cols(0..all.cols() - plain.cols());
        Self { embed, blocks, norm, head: untied.unwrap_or(embed), decayed, plain, all }
    }

    /// Every parameter under its checkpoint name, in checkpoint order. A tied head is not listed: it is the embedding.
    pub fn named(&self, c: &Config) -> Vec<Named> {
        let (d, k, f) = (c.hidden, c.head_size, c.ffn);
        let (q, kv) = (c.heads * k, c.kv_heads * k);
        let mut list = vec![Named {
            name: "model.embed_tokens.weight".into(),
            tensor: self.embed,
            shape: vec![c.vocab, d],
        }];
        for (l, b) in self.blocks.iter().enumerate() {
            let mut matrix = |name: &str, tensor: Tensor| {
                let shape = vec![tensor.rows(), tensor.cols()];
                list.push(Named { name: format!("model.layers.{l}.{name}.weight"), tensor, shape });
            };
            matrix("self_attn.q_proj", b.qkv.slice_rows(0..q));
            matrix("self_attn.k_proj", b.qkv.slice_rows(q..q + kv));
            matrix("self_attn.v_proj", b.qkv.slice_rows(q + kv..q + 2 * kv));
            matrix("self_attn.o_proj", b.out);
            matrix("mlp.gate_proj", b.gate_up.slice_rows(0..f));
            matrix("mlp.up_proj", b.gate_up.slice_rows(f..2 * f));
            matrix("mlp.down_proj", b.down);
            let part = |x: Option<Tensor>, from: usize, to: usize| x.map(|x| x.slice_cols(from..to));
            let vectors = [
                ("input_layernorm.weight", Some(b.norm1)),
                ("post_attention_layernorm.weight", Some(b.norm2)),
                ("self_attn.q_norm.weight", b.q_norm),
                ("self_attn.k_norm.weight", b.k_norm),
                ("self_attn.q_proj.bias", part(b.qkv_bias, 0, q)),
                ("self_attn.k_proj.bias", part(b.qkv_bias, q, q + kv)),
                ("self_attn.v_proj.bias", part(b.qkv_bias, q + kv, q + 2 * kv)),
                ("self_attn.o_proj.bias", b.out_bias),
                ("mlp.gate_proj.bias", part(b.gate_up_bias, 0, f)),
                ("mlp.up_proj.bias", part(b.gate_up_bias, f, 2 * f)),
                ("mlp.down_proj.bias", b.down_bias),
            ];
            for (name, tensor) in vectors {
                if let Some(tensor) = tensor {
                    list.push(Named {
                        name: format!("model.layers.{l}.{name}"),
                        tensor,
                        shape: vec![tensor.cols()],
                    });
                }
            }
        }
        list.push(Named { name: "model.norm.weight".into(), tensor: self.norm, shape: vec![d] });
        if !c.tied {
            list.push(Named { name: "lm_head.weight".into(), tensor: self.head, shape: vec![c.vocab, d] });
        }
        list
    }

    /// Number of parameters (padding and the second use of a tied matrix not counted).
    pub fn count(&self, c: &Config) -> u64 {
        self.named(c).iter().map(|n| n.tensor.len() as u64).sum()
    }
}
