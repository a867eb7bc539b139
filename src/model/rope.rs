//! Rotary frequencies and the table of cosines and sines.
//!
//! Frequencies and angles are rounded to f32 where `transformers` rounds them, so that long positions agree with it; the
//! cosine itself is taken in f64 (by `libm`, the same on every machine).

use super::config::{Config, Scaling};

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

/// The table `[context, k]`: for each position `k / 2` cosines, then `k / 2` sines.
pub(super) fn table(c: &Config) -> Vec<f32> {
    let (frequencies, attention) = frequencies(c);
    let row = |position: usize| {
        let angle = |f: &f32| f64::from(position as f32 * f);
        let cos = frequencies.iter().map(move |f| (libm::cos(angle(f)) * attention) as f32);
        let sin = frequencies.iter().map(move |f| (libm::sin(angle(f)) * attention) as f32);
        cos.chain(sin).collect::<Vec<_>>()
    };
    (0..c.context).flat_map(row).collect()
}
