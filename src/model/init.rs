//! Random initial weights, for pretraining: a pure function of (seed, parameter, element).

use super::config::Config;
use super::params::Params;
use crate::rng::Rng;
use crate::tensor::Tensor;

/// Stream of the initial weights; each parameter adds its number.
const STREAM: u64 = 0x1417 << 32;

/// Normal with the configured deviation for matrices, one for norms, zero for biases: gives `put` every parameter and its
/// values as f32 bytes.
pub(super) fn fill(c: &Config, params: &Params, seed: u64, put: &mut dyn FnMut(Tensor, &[u8])) {
    for (i, named) in params.named(c).iter().enumerate() {
        let rng = Rng::new(seed, STREAM + i as u64);
        let n = named.tensor.len() as u64;
        let values: Vec<f32> = if named.shape.len() == 2 {
            (0..n).map(|j| (rng.normal(j) * c.init_range) as f32).collect()
        } else {
            vec![if named.name.ends_with("bias") { 0.0 } else { 1.0 }; n as usize]
        };
        put(named.tensor, bytemuck::cast_slice(&values));
    }
}
