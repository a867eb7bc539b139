//! Rotary frequencies and the table of cosines and sines.
//!
//! Frequencies and angles are rounded to f32 where `transformers` rounds them, so that long positions agree with it; the
//! cosine itself is taken in f64 (by `libm`, the same on every machine).

use super::config::{Config, Scaling};
use crate::ops::Device;
use crate::tensor::Tensor;

/// The `k / 2` inverse frequencies and the factor on cosines and sines.
fn frequencies(c: &Config) -> (Vec<f32>, f64) {
    let k = c.head_size;
    let power = |i: usize| libm::pow(c.rope_theta, f64::from((2 * i) as f32 / k as f32)) as f32;
    let plain = (0..k / 2).map(|i| 1.0 / power(i));
    match c.scaling {
        Scaling::None => (plain.collect(), 1.0),
        Scaling::Linear { factor } => (plain.map(|f| f / factor as f32).collect(), 1.0),
        Scaling::Llama3 { factor, low, high, original } => {
            let scaled = plain.map(|f| {
                let wavelength = 2.0 * std::f64::consts::PI / f64::from(f);
                let divided = f64::from(f) / factor;
                if wavelength > original / low {
                    divided as f32
                } else if wavelength < original / high {
                    f
                } else {
                    let smooth = (original / wavelength - low) / (high - low);
                    ((1.0 - smooth) * divided + smooth * f64::from(f)) as f32
                }
            });
            (scaled.collect(), 1.0)
        }
        Scaling::Yarn { factor, attention, beta_fast, beta_slow, original, truncate } => {
            // The dimension that turns `rotations` times within the original context.
            let dimension = |rotations: f64| {
                let turns = original / (rotations * 2.0 * std::f64::consts::PI);
                k as f64 * libm::log(turns) / (2.0 * libm::log(c.rope_theta))
            };
            let (mut low, mut high) = (dimension(beta_fast), dimension(beta_slow));
            if truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            (low, high) = (low.max(0.0), high.min(k as f64 - 1.0));
            if low == high {
                high += 0.001;
            }
            let scaled = (0..k / 2).map(|i| {
                let keep = 1.0 - ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                let (f, divided) = (1.0 / f64::from(power(i)), 1.0 / (factor * f64::from(power(i))));
                (divided * (1.0 - keep) + f * keep) as f32
            });
            (scaled.collect(), attention)
        }
    }
}

/// Fills `table [positions, k]`: for each position `k / 2` cosines, then `k / 2` sines.
pub(super) fn fill(device: &dyn Device, c: &Config, table: Tensor) {
    /// Rows made at a time.
    const ROWS: usize = 1024;
    let (frequencies, attention) = frequencies(c);
    for first in (0..table.rows()).step_by(ROWS) {
        let rows = first..table.rows().min(first + ROWS);
        let mut values = Vec::with_capacity(rows.len() * table.cols());
        for position in rows.clone() {
            let angle = |f: &f32| f64::from(position as f32 * f);
            values.extend(frequencies.iter().map(|f| (libm::cos(angle(f)) * attention) as f32));
            values.extend(frequencies.iter().map(|f| (libm::sin(angle(f)) * attention) as f32));
        }
        device.write(table.slice_rows(rows), bytemuck::cast_slice(&values));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// Frequencies of models as published, computed by transformers (tests/fixtures/make.py).
    #[test]
    fn frequencies_are_those_of_transformers() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/rope.json");
        let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let list = file.as_array().unwrap();
        assert!(list.len() >= 10);
        for case in list {
            let mut config = case.clone();
            config["architectures"] = serde_json::json!(["LlamaForCausalLM"]);
            for key in ["num_hidden_layers", "intermediate_size", "vocab_size"] {
                config[key] = 8.into();
            }
            let config = Config::parse(config.to_string().as_bytes(), "rope.json").unwrap();
            let (got, attention) = frequencies(&config);
            let want: Vec<f64> =
                case["inv_freq"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
            assert_eq!(got.len(), want.len());
            for (g, w) in got.iter().zip(&want) {
                assert!((f64::from(*g) / w - 1.0).abs() < 1e-6, "{case}: {g} is not {w}");
            }
            assert!(
                (attention - case["attention_factor"].as_f64().unwrap()).abs() < 1e-9,
                "{case}: {attention}"
            );
        }
    }
}
