//! Initial weights, for pretraining: a pure function of (seed, parameter, element).

use super::config::Config;
use super::params::{Named, Params};
use crate::error::{Error, Result};
use crate::rng::Rng;
use crate::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Stream of the initial weights; each parameter adds its number.
const STREAM: u64 = 0x1417 << 32;

/// Streams of the two bases of [`Copying`].
const BASES: u64 = 0x1418 << 32;

/// How a new model's weights begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// Matrices normal with the configuration's `initializer_range`, norms one, biases zero.
    #[default]
    Normal,
    /// Attention begins as a circuit that looks up what followed, or stood near, an earlier occurrence of the words at hand: see
    /// [`Copying`]. For small models on small text, which else take a hundred times as many tokens to find it (docs/reproduction.md).
    Copying,
}

impl Init {
    /// An error unless a model of this configuration can begin so.
    pub fn check(self, c: &Config) -> Result<()> {
        let fits = c.qkv_bias && !c.qk_norm && c.kv_heads == c.heads && c.heads * c.head_size <= c.hidden;
        if self == Self::Normal || fits && c.layers >= 2 {
            return Ok(());
        }
        Err(Error::model(
            "model.init = \"copying\" needs attention with biases and without norms, as many heads for keys as for queries, \
             heads that together are no wider than the model, and two layers or more",
        )
        .fix("a configuration of Qwen2ForCausalLM with num_key_value_heads = num_attention_heads, or model.init = \"normal\""))
    }
}

/// Gives `put` every parameter and its values as f32 bytes.
pub(super) fn fill(c: &Config, params: &Params, seed: u64, how: Init, put: &mut dyn FnMut(Tensor, &[u8])) {
    let copying = (how == Init::Copying).then(|| Copying::new(c, seed));
    for (i, named) in params.named(c).iter().enumerate() {
        let rng = Rng::new(seed, STREAM + i as u64);
        let n = named.tensor.len() as u64;
        let mut values: Vec<f32> = if named.shape.len() == 2 {
            let deviation = match how {
                Init::Normal => c.init_range,
                Init::Copying => deviation(c, named),
            };
            (0..n).map(|j| (rng.normal(j) * deviation) as f32).collect()
        } else {
            vec![if named.name.ends_with("bias") { 0.0 } else { 1.0 }; n as usize]
        };
        if let Some(copying) = &copying {
            copying.set(&named.name, &mut values);
        }
        put(named.tensor, bytemuck::cast_slice(&values));
    }
}

/// One over the root of the inputs, so that no width begins with flat attention; what is added to the residual stream is smaller by
/// the root of how many do so.
fn deviation(c: &Config, named: &Named) -> f64 {
    let fan_in = named.shape[1] as f64;
    match named.name.rsplit('.').nth(1) {
        Some("embed_tokens" | "lm_head") => 0.05,
        Some("o_proj" | "down_proj") => 1.0 / libm::sqrt(fan_in * 2.0 * c.layers as f64),
        _ => 1.0 / libm::sqrt(fan_in),
    }
}

/// Attention of the first three layers set up as induction heads (Olsson et al., "In-context Learning and Induction Heads", 2022), in the spirit
/// of mimetic initialisation (Trockman and Kolter, "Mimetic Initialization of Self-Attention Layers", 2023); everything else is random and
/// all of it is trained.
///
/// * Layer 0: head h attends to the token h + 1 back (biases of queries and keys, turned against each other by the rotary embedding) and
///   writes what it read into a subspace of its own.
/// * Layer 1: head h attends to where the word h + 1 back is the word that is h back now (head 0 only roughly), and copies the token there: "Ann is in the", h = 3,
///   finds what followed "Ann is in the" before.
/// * Layer 2 (where there is one): attends to where a recent word stood before, and copies the word h + 1 back of there: "the one in the park is"
///   finds whose park it was.
struct Copying {
    c: Config,
    /// `[head_size, hidden]`: how all of them read a word from the residual stream.
    read: Vec<Vec<f64>>,
    /// `heads x head_size` orthonormal vectors `[hidden]`: the subspaces that layer 0 writes to.
    write: Vec<Vec<f64>>,
}

impl Copying {
    /// Sharpness of attention to a place: the score's fall from it to its neighbours, in nats, is about half of this.
    const PLACE: f64 = 4.0;
    /// Scale of both queries and keys that compare words.
    const MATCH: f64 = 1.5;
    /// Scale of what layer 0 writes, and of what a copy writes.
    const WRITE: f64 = 0.2;
    const COPY: f64 = 0.4;
    /// Rotations a token, in radians: faster ones tell places apart, slower ones leave words comparable over a text.
    const FAST: f64 = 0.05;
    const SLOW: f64 = 0.04;

    fn new(c: &Config, seed: u64) -> Self {
        Self {
            read: orthonormal(seed, BASES, c.head_size, c.hidden),
            write: orthonormal(seed, BASES + 1, c.heads * c.head_size, c.hidden),
            c: c.clone(),
        }
    }

    /// Radians a token of rotary pair `pair`.
    fn speed(&self, pair: usize) -> f64 {
        libm::pow(self.c.rope_theta, -2.0 * pair as f64 / self.c.head_size as f64)
    }

    /// How a word is read that layer 0 moved here from `back` tokens before (0: the token itself); further than it reaches: as far as it does.
    fn moved(&self, back: usize) -> &[Vec<f64>] {
        let k = self.c.head_size;
        match back.min(self.c.heads) {
            0 => &self.read,
            back => &self.write[(back - 1) * k..back * k],
        }
    }

    /// For layer 1 and 2: of head h, how far back the words are that the query, the key and the value read.
    fn heads(&self, layer: usize, h: usize) -> [usize; 3] {
        match layer {
            1 => [h, h + 1, 0],
            _ => [[0, 1, 2, 1, 2, 3][h % 6], 0, h + 1],
        }
    }

    /// Puts `from` into the rows of head `h`; those of queries and keys that compare words scaled, and only where rotation is slow.
    fn rows(&self, values: &mut [f32], h: usize, from: &[Vec<f64>], compare: Option<f64>) {
        let (k, d) = (self.c.head_size, self.c.hidden);
        for (i, row) in from.iter().enumerate() {
            let scale = match compare {
                Some(_) if self.speed(i % (k / 2)) >= Self::SLOW => 0.0,
                scale => scale.unwrap_or(1.0),
            };
            let at = (h * k + i) * d;
            values[at..at + d].iter_mut().zip(row).for_each(|(v, x)| *v = (x * scale) as f32);
        }
    }

    /// Changes the random `values` of the parameter called `name` where the circuit wants others.
    fn set(&self, name: &str, values: &mut [f32]) {
        let Some(rest) = name.strip_prefix("model.layers.") else { return };
        let Some((layer, part)) = rest.split_once('.') else { return };
        let (layer, k): (usize, _) = (layer.parse().unwrap_or(usize::MAX), self.c.head_size);
        let cols = self.c.heads * k;
        for h in 0..self.c.heads {
            match (layer, part) {
                (0, "self_attn.v_proj.weight") => self.rows(values, h, &self.read, None),
                (1 | 2, "self_attn.q_proj.weight") => {
                    self.rows(values, h, self.moved(self.heads(layer, h)[0]), Some(Self::MATCH))
                }
                (1 | 2, "self_attn.k_proj.weight") => {
                    self.rows(values, h, self.moved(self.heads(layer, h)[1]), Some(Self::MATCH))
                }
                (1 | 2, "self_attn.v_proj.weight") => {
                    self.rows(values, h, self.moved(self.heads(layer, h)[2]), None)
                }
                (0..=2, "self_attn.o_proj.weight") => {
                    let (to, scale) = match layer {
                        0 => (&self.write[h * k..(h + 1) * k], Self::WRITE),
                        _ => (&self.read[..], Self::COPY),
                    };
                    for (i, column) in to.iter().enumerate() {
                        column
                            .iter()
                            .enumerate()
                            .for_each(|(r, x)| values[r * cols + h * k + i] = (x * scale) as f32);
                    }
                }
                (0, "self_attn.q_proj.bias" | "self_attn.k_proj.bias") => {
                    let size = libm::sqrt(Self::PLACE * libm::sqrt(k as f64));
                    for pair in (0..k / 2).filter(|&p| self.speed(p) > Self::FAST) {
                        let turn =
                            if part.contains("q_proj") { -((h + 1) as f64) * self.speed(pair) } else { 0.0 };
                        values[h * k + pair] = (size * libm::cos(turn)) as f32;
                        values[h * k + pair + k / 2] = (size * libm::sin(turn)) as f32;
                    }
                }
                _ => {}
            }
        }
        if layer == 0 && matches!(part, "self_attn.q_proj.weight" | "self_attn.k_proj.weight") {
            values.iter_mut().for_each(|v| *v *= 0.3);
        }
    }
}

/// `n` orthonormal vectors of `d` numbers, `n` at most `d`: normal draws by Gram and Schmidt, each projected twice.
fn orthonormal(seed: u64, stream: u64, n: usize, d: usize) -> Vec<Vec<f64>> {
    let rng = Rng::new(seed, stream);
    let mut basis: Vec<Vec<f64>> = Vec::with_capacity(n);
    for i in 0..n {
        let mut v: Vec<f64> = (0..d).map(|j| rng.normal((i * d + j) as u64)).collect();
        for b in basis.iter().chain(&basis) {
            let along: f64 = v.iter().zip(b).map(|(x, y)| x * y).sum();
            v.iter_mut().zip(b).for_each(|(x, y)| *x -= along * y);
        }
        let norm = libm::sqrt(v.iter().map(|x| x * x).sum());
        v.iter_mut().for_each(|x| *x /= norm);
        basis.push(v);
    }
    basis
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Arena;
    use crate::tensor::DType;
    use serde_json::json;
    use std::collections::BTreeMap;

    fn config(architecture: &str, layers: usize) -> Config {
        let json = json!({
            "architectures": [architecture], "hidden_size": 96, "intermediate_size": 128, "num_hidden_layers": layers,
            "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 32, "vocab_size": 80, "max_position_embeddings": 64,
            "rope_theta": 100000.0, "tie_word_embeddings": true, "rms_norm_eps": 1e-5, "hidden_act": "silu"
        });
        Config::parse(json.to_string().as_bytes(), "config.json").unwrap()
    }

    /// Every parameter under its name.
    fn filled(c: &Config, how: Init) -> BTreeMap<String, Vec<f32>> {
        let params = Params::carve(c, &mut Arena::measure(), "", DType::F32);
        let mut values = Vec::new();
        fill(c, &params, 3, how, &mut |_, bytes| values.push(bytemuck::pod_collect_to_vec(bytes)));
        params.named(c).into_iter().map(|n| n.name).zip(values).collect()
    }

    fn norm(x: &[f64]) -> Vec<f64> {
        let rms = (x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64 + 1e-5).sqrt();
        x.iter().map(|v| v / rms).collect()
    }

    fn times(w: &[f32], x: &[f64]) -> Vec<f64> {
        w.chunks(x.len()).map(|row| row.iter().zip(x).map(|(a, b)| f64::from(*a) * b).sum()).collect()
    }

    /// Attention of layer `l` over `x` by the definition, in f64: what each token gets of each other by head, and the residual stream after it.
    fn attend(
        c: &Config,
        p: &BTreeMap<String, Vec<f32>>,
        l: usize,
        x: &[Vec<f64>],
    ) -> (Vec<Vec<Vec<f64>>>, Vec<Vec<f64>>) {
        let (k, heads) = (c.head_size, c.heads);
        let part = |name: &str| &p[&format!("model.layers.{l}.self_attn.{name}")];
        let project = |n: &str, x: &[f64]| -> Vec<f64> {
            let y = times(part(&format!("{n}_proj.weight")), &norm(x));
            y.iter().zip(part(&format!("{n}_proj.bias"))).map(|(y, b)| y + f64::from(*b)).collect()
        };
        let turned = |v: Vec<f64>, at: usize| -> Vec<f64> {
            let mut out = v.clone();
            for (h, i) in (0..heads).flat_map(|h| (0..k / 2).map(move |i| (h, i))) {
                let angle = at as f64 * c.rope_theta.powf(-2.0 * i as f64 / k as f64);
                let (a, b) = (v[h * k + i], v[h * k + i + k / 2]);
                out[h * k + i] = a * angle.cos() - b * angle.sin();
                out[h * k + i + k / 2] = b * angle.cos() + a * angle.sin();
            }
            out
        };
        let of = |n: &str| -> Vec<Vec<f64>> { x.iter().map(|x| project(n, x)).collect() };
        let q: Vec<_> = of("q").into_iter().enumerate().map(|(i, v)| turned(v, i)).collect();
        let keys: Vec<_> = of("k").into_iter().enumerate().map(|(i, v)| turned(v, i)).collect();
        let v = of("v");
        let mut shares = vec![Vec::new(); heads];
        let mut after = Vec::new();
        for i in 0..x.len() {
            let mut read = vec![0.0; heads * k];
            for h in 0..heads {
                let span = h * k..(h + 1) * k;
                let score = |j: usize| -> f64 {
                    q[i][span.clone()].iter().zip(&keys[j][span.clone()]).map(|(a, b)| a * b).sum::<f64>()
                        / (k as f64).sqrt()
                };
                let e: Vec<f64> = (0..=i).map(|j| score(j).exp()).collect();
                let total: f64 = e.iter().sum();
                let e: Vec<f64> = e.iter().map(|x| x / total).collect();
                for (j, share) in e.iter().enumerate() {
                    read[span.clone()].iter_mut().zip(&v[j][span.clone()]).for_each(|(r, v)| *r += share * v);
                }
                shares[h].push(e);
            }
            let out = times(part("o_proj.weight"), &read);
            after.push(x[i].iter().zip(out).map(|(x, y)| x + y).collect());
        }
        (shares, after)
    }

    fn likeliest(share: &[f64]) -> usize {
        (0..share.len()).max_by(|a, b| share[*a].total_cmp(&share[*b])).unwrap()
    }

    #[test]
    fn attention_begins_by_looking_up() {
        let c = config("Qwen2ForCausalLM", 3);
        let p = filled(&c, Init::Copying);
        // Twenty different words, then the seven from the fifth on again.
        let words: Vec<usize> = (0..20).map(|i| 3 + (i * 37) % 71).collect();
        let text: Vec<usize> = words.iter().chain(&words[5..12]).copied().collect();
        let x: Vec<Vec<f64>> = text
            .iter()
            .map(|t| {
                p["model.embed_tokens.weight"][t * 96..(t + 1) * 96].iter().map(|v| f64::from(*v)).collect()
            })
            .collect();
        let (first, x) = attend(&c, &p, 0, &x);
        for (h, i) in (0..3).flat_map(|h| (h + 1..27).map(move |i| (h, i))) {
            assert_eq!(likeliest(&first[h][i]), i - h - 1, "head {h} of layer 0 at {i}");
        }
        let (second, _) = attend(&c, &p, 1, &x);
        // Not head 0: its query is the word itself, which layer 0 has written over; it has to be learnt.
        for h in 1..3 {
            // At the last of the words said again, what followed it the first time.
            let right = (22..27).filter(|&i| likeliest(&second[h][i]) == i - 20 + 5 + 1).count();
            assert!(right >= 4, "head {h} of layer 1 finds {right} of 5");
        }
    }

    #[test]
    fn spread_follows_the_inputs() {
        let c = config("Qwen2ForCausalLM", 3);
        let p = filled(&c, Init::Copying);
        let deviation = |name: &str| {
            let v = &p[name];
            (v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / v.len() as f64).sqrt()
        };
        for (name, expected) in [
            ("model.embed_tokens.weight", 0.05),
            ("model.layers.2.mlp.up_proj.weight", 1.0 / 96f64.sqrt()),
            ("model.layers.2.mlp.down_proj.weight", 1.0 / (128.0f64 * 6.0).sqrt()),
        ] {
            assert!((deviation(name) / expected - 1.0).abs() < 0.03, "{name}: {}", deviation(name));
        }
        assert_eq!(p, filled(&c, Init::Copying));
        assert_ne!(p, filled(&c, Init::Normal));
    }

    #[test]
    fn only_where_it_fits() {
        assert!(Init::Copying.check(&config("Qwen2ForCausalLM", 2)).is_ok());
        assert!(Init::Copying.check(&config("Qwen2ForCausalLM", 1)).is_err());
        assert!(Init::Copying.check(&config("LlamaForCausalLM", 3)).is_err());
        assert!(Init::Normal.check(&config("LlamaForCausalLM", 1)).is_ok());
    }
}
