//! `config.json` of a Hugging Face checkpoint, read into exactly what the passes need.
//!
//! Every variant that would change numbers is either supported or refused here, before a weight is read. Keys that a
//! checkpoint leaves out take the defaults of that architecture's configuration class in `transformers`.

use crate::error::{Error, Result};
use serde_json::{Map, Value};

/// The architectures, by the name in `architectures[0]`.
pub(super) const SUPPORTED: [&str; 4] =
    ["LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"];

/// How rotary frequencies are changed for longer contexts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    /// Unchanged.
    None,
    /// All frequencies divided by a factor (position interpolation).
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided, high ones kept, the band between interpolated.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original / low` are low frequencies.
        low: f64,
        /// Wavelengths below `original / high` are high frequencies.
        high: f64,
        /// Context length before scaling.
        original: f64,
    },
    /// YaRN (Peng et al., 2023).
    Yarn {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Factor on cosines and sines.
        attention: f64,
        /// Rotations within the original context above which a frequency is kept.
        beta_fast: f64,
        /// Rotations below which it is divided.
        beta_slow: f64,
        /// Context length before scaling.
        original: f64,
        /// Whether the band's ends are rounded to whole dimensions.
        truncate: bool,
    },
}

/// What the passes need to know of a model. Dims as in [`crate::ops`].
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `architectures[0]`.
    pub architecture: String,
    /// Model width, `d`.
    pub hidden: usize,
    /// Number of blocks, `l`.
    pub layers: usize,
    /// Query heads, `h`.
    pub heads: usize,
    /// Key/value heads, `g`.
    pub kv_heads: usize,
    /// Head size, `k`.
    pub head_size: usize,
    /// Feed-forward width, `f`.
    pub ffn: usize,
    /// Vocabulary, `v`.
    pub vocab: usize,
    /// Longest sequence.
    pub context: usize,
    /// Added to the mean square in every norm.
    pub eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Their scaling.
    pub scaling: Scaling,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Biases on the query, key and value projections.
    pub qkv_bias: bool,
    /// Bias on the attention output projection.
    pub out_bias: bool,
    /// Biases in the feed-forward block.
    pub mlp_bias: bool,
    /// RMSNorm on every query and key head.
    pub qk_norm: bool,
    /// Sliding window of each layer.
    pub windows: Vec<Option<usize>>,
    /// Standard deviation of random initial weights.
    pub init_range: f64,
    /// The file as read, for saving.
    pub json: Value,
}

/// Reads typed values out of one JSON object, naming the key on failure.
struct Keys<'a>(&'a Map<String, Value>);

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|v| !v.is_null())
    }

    fn count(&self, key: &str, default: Option<usize>) -> Result<usize> {
        match (self.get(key), default) {
            (Some(v), _) => v
                .as_u64()
                .filter(|&n| n > 0 && n < 1 << 32)
                .map(|n| n as usize)
                .ok_or_else(|| Error::model(format!("{key} is {v}, expected a positive whole number"))),
            (None, Some(n)) => Ok(n),
            (None, None) => Err(Error::model(format!("{key} is missing"))),
        }
    }

    fn number(&self, key: &str, default: Option<f64>) -> Result<f64> {
        match (self.get(key), default) {
            (Some(v), _) => v
                .as_f64()
                .filter(|x| x.is_finite())
                .ok_or_else(|| Error::model(format!("{key} is {v}, expected a number"))),
            (None, Some(x)) => Ok(x),
            (None, None) => Err(Error::model(format!("{key} is missing"))),
        }
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            Some(v) => {
                v.as_bool().ok_or_else(|| Error::model(format!("{key} is {v}, expected true or false")))
            }
            None => Ok(default),
        }
    }

    fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            Some(v) => {
                v.as_str().map(Some).ok_or_else(|| Error::model(format!("{key} is {v}, expected a string")))
            }
            None => Ok(None),
        }
    }

    fn object(&self, key: &str) -> Result<Option<Keys<'_>>> {
        match self.get(key) {
            Some(v) => v
                .as_object()
                .map(|o| Some(Keys(o)))
                .ok_or_else(|| Error::model(format!("{key} is {v}, expected an object"))),
            None => Ok(None),
        }
    }
}

impl Config {
    /// Reads `bytes`, the contents of the `config.json` at `place`.
    pub fn parse(bytes: &[u8], place: &str) -> Result<Self> {
        let json: Value = serde_json::from_slice(bytes)
            .map_err(|e| Error::model(format!("{place}:{}:{}: not valid JSON: {e}", e.line(), e.column())))?;
        Self::from_json(json).map_err(|e| e.at(place))
    }

    fn from_json(json: Value) -> Result<Self> {
        let object = json.as_object().ok_or_else(|| Error::model("expected a JSON object"))?;
        let keys = Keys(object);
        let supported = || format!("supported: {}", SUPPORTED.join(", "));
        let architecture = keys
            .get("architectures")
            .and_then(|a| a.get(0))
            .and_then(Value::as_str)
            .ok_or_else(|| Error::model("architectures names no model class").fix(supported()))?
            .to_string();
        let arch = SUPPORTED.iter().position(|s| *s == architecture).ok_or_else(|| {
            Error::model(format!("unsupported architecture {architecture}")).fix(supported())
        })?;
        let (llama, mistral, qwen2, qwen3) = (arch == 0, arch == 1, arch == 2, arch == 3);
        if keys.get("quantization_config").is_some() {
            return Err(Error::model("the checkpoint is quantized (quantization_config)")
                .fix("use the original f32, f16 or bf16 weights"));
        }
        match keys.text("hidden_act")? {
            None | Some("silu" | "swish") => {}
            Some(act) => {
                return Err(Error::model(format!("unsupported hidden_act {act:?}, expected \"silu\"")));
            }
        }
        if keys.number("attention_dropout", Some(0.0))? != 0.0 {
            return Err(Error::model("attention_dropout is not 0: flanrt trains without dropout")
                .fix("set it to 0.0"));
        }
        let (hidden, heads) = (keys.count("hidden_size", None)?, keys.count("num_attention_heads", None)?);
        let layers = keys.count("num_hidden_layers", None)?;
        let kv_default = [heads, 8, 32, 32][arch];
        let kv_heads = keys.count("num_key_value_heads", Some(kv_default))?;
        if heads % kv_heads != 0 {
            return Err(Error::model(format!(
                "num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
            )));
        }
        let head_default = if qwen3 { 128 } else { hidden / heads };
        let head_size = keys.count("head_dim", Some(head_default.max(1)))?;
        if head_size > 1024 {
            return Err(Error::model(format!(
                "head size (head_dim) {head_size} is not supported, at most 1024"
            )));
        }
        if !head_size.is_multiple_of(2) {
            return Err(Error::model(format!("head size {head_size} is odd: rotary embedding needs pairs")));
        }
        let ffn = keys.count("intermediate_size", None)?;
        let vocab = keys.count("vocab_size", None)?;
        let context = keys.count("max_position_embeddings", Some([2048, 131_072, 32_768, 32_768][arch]))?;
        addressable(hidden, layers, heads, head_size, ffn, vocab, context)?;
        let (rope_theta, scaling) = rope(&keys, &json)?;
        let attention_bias = keys.flag("attention_bias", false)? && (llama || qwen3);
        Ok(Self {
            hidden,
            layers,
            heads,
            kv_heads,
            head_size,
            ffn,
            vocab,
            context,
            eps: keys.number("rms_norm_eps", Some(1e-6))? as f32,
            rope_theta,
            scaling,
            tied: keys.flag("tie_word_embeddings", false)?,
            qkv_bias: qwen2 || attention_bias,
            out_bias: attention_bias,
            mlp_bias: llama && keys.flag("mlp_bias", false)?,
            qk_norm: qwen3,
            windows: windows(&keys, layers, mistral, qwen2 || qwen3)?,
            init_range: keys.number("initializer_range", Some(0.02))?,
            architecture,
            json,
        })
    }

    /// Columns of the fused query, key and value projection.
    pub fn qkv_cols(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_size
    }
}

/// An error for sizes that no machine holds, so that nothing computed from them overflows.
fn addressable(
    hidden: usize,
    layers: usize,
    heads: usize,
    head_size: usize,
    ffn: usize,
    vocab: usize,
    context: usize,
) -> Result<()> {
    let limits = [
        ("hidden_size", hidden, 1 << 24),
        ("num_hidden_layers", layers, 1 << 12),
        ("num_attention_heads x head_dim", heads.saturating_mul(head_size), 1 << 24),
        ("intermediate_size", ffn, 1 << 24),
        ("vocab_size", vocab, 1 << 28),
        ("max_position_embeddings", context, 1 << 24),
    ];
    if let Some((name, value, limit)) = limits.iter().find(|(_, value, limit)| value > limit) {
        return Err(Error::model(format!(
            "{name} is {value}, more than the {limit} that flanrt can address"
        )));
    }
    let wide = |n: usize| n as u128;
    let block = wide(hidden) * (2 * wide(heads) * wide(head_size) + 3 * wide(ffn));
    let parameters = wide(layers) * block + wide(vocab) * wide(hidden);
    if parameters > 1 << 42 {
        return Err(Error::model(format!(
            "its sizes make {parameters} parameters, more than the {} that flanrt can address",
            1u64 << 42
        )));
    }
    Ok(())
}

/// Base and scaling of the rotary frequencies, from `rope_parameters` (transformers 5) or the older top-level keys.
fn rope(keys: &Keys, json: &Value) -> Result<(f64, Scaling)> {
    let parameters = keys.object("rope_parameters")?;
    let given = match &parameters {
        Some(p) => Some(Keys(p.0)),
        None => keys.object("rope_scaling")?,
    };
    let theta = match &parameters {
        Some(p) if p.get("rope_theta").is_some() => p.number("rope_theta", None)?,
        _ => keys.number("rope_theta", Some(10_000.0))?,
    };
    let Some(s) = given else { return Ok((theta, Scaling::None)) };
    if s.0.values().any(Value::is_object) {
        return Err(Error::model("rotary parameters differ by layer type, which is not supported"));
    }
    if s.number("partial_rotary_factor", Some(1.0))? != 1.0
        || keys.number("partial_rotary_factor", Some(1.0))? != 1.0
    {
        return Err(Error::model("partial_rotary_factor other than 1 is not supported"));
    }
    let kind = s.text("rope_type")?.or(s.text("type")?).unwrap_or("default");
    let positive = |key: &str, default: Option<f64>| match s.number(key, default)? {
        x if x > 0.0 => Ok(x),
        x => Err(Error::model(format!("{key} is {x}, expected a positive number"))),
    };
    let original = || match s.get("original_max_position_embeddings") {
        Some(_) => positive("original_max_position_embeddings", None),
        None => keys.count("max_position_embeddings", None).map(|n| n as f64),
    };
    let scaling = match kind {
        "default" => Scaling::None,
        "linear" => Scaling::Linear { factor: positive("factor", None)? },
        "llama3" => Scaling::Llama3 {
            factor: positive("factor", None)?,
            low: positive("low_freq_factor", None)?,
            high: positive("high_freq_factor", None)?,
            original: original()?,
        },
        "yarn" => {
            let original = original()?;
            let context = keys.number("max_position_embeddings", Some(original))?;
            let factor = positive("factor", Some(context / original))?;
            let mscale = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * libm::log(factor) + 1.0 };
            let attention = match (s.number("mscale", Some(0.0))?, s.number("mscale_all_dim", Some(0.0))?) {
                (a, b) if a != 0.0 && b != 0.0 => mscale(a) / mscale(b),
                _ => mscale(1.0),
            };
            Scaling::Yarn {
                factor,
                attention: positive("attention_factor", Some(attention))?,
                beta_fast: positive("beta_fast", Some(32.0))?,
                beta_slow: positive("beta_slow", Some(1.0))?,
                original,
                truncate: s.flag("truncate", true)?,
            }
        }
        other => {
            return Err(Error::model(format!("unsupported rotary scaling {other:?} in {}", short(json)))
                .fix("supported: default, linear, llama3, yarn"));
        }
    };
    Ok((theta, scaling))
}

/// The rotary part of a configuration, for an error message.
fn short(json: &Value) -> String {
    let part = json.get("rope_parameters").filter(|v| !v.is_null()).or(json.get("rope_scaling"));
    part.map_or(String::new(), Value::to_string)
}

/// The sliding window of every layer.
fn windows(keys: &Keys, layers: usize, mistral: bool, qwen: bool) -> Result<Vec<Option<usize>>> {
    let window = || keys.count("sliding_window", Some(4096));
    if mistral {
        // Mistral's class defaults to 4096; an explicit null means full attention.
        let full = keys.0.get("sliding_window").is_some_and(Value::is_null);
        return Ok(vec![if full { None } else { Some(window()?) }; layers]);
    }
    if !qwen
        || !keys.flag("use_sliding_window", false)?
        || keys.0.get("sliding_window").is_some_and(Value::is_null)
    {
        return Ok(vec![None; layers]);
    }
    let window = window()?;
    let Some(types) = keys.get("layer_types") else {
        let first = keys.number("max_window_layers", Some(28.0))? as usize;
        return Ok((0..layers).map(|l| (l >= first).then_some(window)).collect());
    };
    let types = types.as_array().filter(|a| a.len() == layers);
    let types = types.ok_or_else(|| Error::model(format!("layer_types is not a list of {layers} names")))?;
    types
        .iter()
        .map(|t| match t.as_str() {
            Some("full_attention") => Ok(None),
            Some("sliding_attention") => Ok(Some(window)),
            _ => Err(Error::model(format!("unsupported layer type {t}"))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Value {
        serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_attention_heads": 8, "num_hidden_layers": 2,
            "intermediate_size": 128, "vocab_size": 100, "max_position_embeddings": 64
        })
    }

    fn with(changes: Value) -> Result<Config> {
        let mut json = base();
        for (k, v) in changes.as_object().unwrap() {
            json[k] = v.clone();
        }
        Config::from_json(json)
    }

    #[test]
    fn defaults_and_variants() {
        let c = with(serde_json::json!({})).unwrap();
        assert_eq!((c.kv_heads, c.head_size, c.tied, c.qkv_bias, c.windows[0]), (8, 8, false, false, None));
        let c = with(serde_json::json!({"architectures": ["MistralForCausalLM"]})).unwrap();
        assert_eq!((c.kv_heads, c.windows[1]), (8, Some(4096)));
        let c = with(serde_json::json!({"architectures": ["MistralForCausalLM"], "sliding_window": null}))
            .unwrap();
        assert_eq!(c.windows[0], None);
        let qwen = serde_json::json!({"architectures": ["Qwen2ForCausalLM"], "num_key_value_heads": 2,
            "use_sliding_window": true, "sliding_window": 7, "max_window_layers": 1});
        let c = with(qwen).unwrap();
        assert_eq!((c.qkv_bias, c.out_bias, c.windows), (true, false, vec![None, Some(7)]));
    }

    #[test]
    fn refusals_name_the_key() {
        for (change, word) in [
            (serde_json::json!({"architectures": ["GPT2LMHeadModel"]}), "GPT2LMHeadModel"),
            (serde_json::json!({"architectures": []}), "architectures"),
            (serde_json::json!({"hidden_size": -1}), "hidden_size"),
            (serde_json::json!({"vocab_size": "x"}), "vocab_size"),
            (serde_json::json!({"num_key_value_heads": 3}), "num_key_value_heads"),
            (serde_json::json!({"hidden_act": "gelu"}), "gelu"),
            (serde_json::json!({"rope_scaling": {"type": "dynamic", "factor": 2}}), "dynamic"),
            (serde_json::json!({"rope_scaling": {"type": "linear"}}), "factor"),
            (serde_json::json!({"rope_scaling": 3}), "rope_scaling"),
            (serde_json::json!({"quantization_config": {}}), "quantized"),
            (serde_json::json!({"head_dim": 7}), "odd"),
            (serde_json::json!({"vocab_size": 4_000_000_000u64}), "vocab_size"),
            (
                serde_json::json!({"num_attention_heads": 4_000_000_000u64, "head_dim": 4_000_000_000u64}),
                "head_dim",
            ),
            (
                serde_json::json!({"hidden_size": 1 << 23, "intermediate_size": 1 << 23, "head_dim": 8}),
                "parameters",
            ),
        ] {
            let e = with(change).unwrap_err();
            assert!(e.message.contains(word), "{} lacks {word}", e.message);
        }
        assert!(Config::parse(b"{", "here").unwrap_err().message.starts_with("here:1:"));
    }

    #[test]
    fn both_forms_of_rotary_parameters_agree() {
        let old = with(serde_json::json!({"rope_theta": 5e5, "rope_scaling": {"type": "yarn", "factor": 4.0,
            "original_max_position_embeddings": 16}}));
        let new = with(
            serde_json::json!({"rope_parameters": {"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0,
            "original_max_position_embeddings": 16}}),
        );
        let (old, new) = (old.unwrap(), new.unwrap());
        assert_eq!((old.rope_theta, old.scaling), (new.rope_theta, new.scaling));
    }
}
