//! Clipping and AdamW.

use super::Cpu;
use super::rows::{floats, shape, slice_mut, store};
use super::simd::{LANES, vectorized};
use crate::ops::optim::{AdamW, CLIP_CHUNK, Optim, clip_scratch};
use crate::tensor::Tensor;

vectorized! {
    /// Sum of squares in f64: lane `i % 16` takes element `i`, lanes added in order.
    fn sum_squares(x: &[f32]) -> f64 {
        let mut lanes = [0f64; LANES];
        let mut chunks = x.chunks_exact(LANES);
        for c in &mut chunks {
            for j in 0..LANES {
                let x = f64::from(c[j]);
                lanes[j] = x.mul_add(x, lanes[j]);
            }
        }
        for (j, x) in chunks.remainder().iter().enumerate() {
            lanes[j] = f64::from(*x).mul_add(f64::from(*x), lanes[j]);
        }
        lanes.iter().sum()
    }
}

/// What an update comes to, rounded to f32 once: `1 - beta` of an f32 `beta` would be off by 1e-5.
#[derive(Clone, Copy)]
struct Numbers {
    factor: f32,
    keep: f32,
    rate: f32,
    root: f32,
    first: f32,
    second: f32,
    second_keep: f32,
    eps: f32,
}

vectorized! {
    /// The update in PyTorch's order: decay, moments, `w -= lr / c1 * m / (sqrt(v) / sqrt(c2) + eps)`.
    fn update(w: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], x: Numbers) {
        let n = g.len();
        let (w, m, v) = (&mut w[..n], &mut m[..n], &mut v[..n]);
        for i in 0..n {
            let g = g[i] * x.factor;
            m[i] = x.first.mul_add(g - m[i], m[i]);
            v[i] = (x.second * g).mul_add(g, x.second_keep * v[i]);
            let denom = v[i].sqrt() / x.root + x.eps;
            w[i] = (-x.rate).mul_add(m[i] / denom, w[i] * x.keep);
        }
    }
}

impl Optim for Cpu {
    fn clip(&self, out: Tensor, grads: Tensor, max_norm: f32, unscale: f32, scratch: Tensor) {
        shape!(out, 1, 2);
        let n = grads.cols();
        shape!(grads, 1, n);
        assert!(scratch.len() >= clip_scratch(n), "scratch {scratch:?} for {n} gradients");
        let g: &[f32] = floats(grads);
        let partials = floats(scratch);
        let at = partials.as_mut_ptr() as usize;
        self.blocks(n, CLIP_CHUNK, |c| {
            let i = c.start / CLIP_CHUNK;
            let bits = sum_squares(&g[c]).to_bits();
            // SAFETY: one task a partial, inside the scratch by the assertion.
            unsafe { (at as *mut [u32; 2]).add(i).write([bits as u32, (bits >> 32) as u32]) };
        });
        let sum: f64 = partials[..clip_scratch(n)]
            .chunks_exact(2)
            .map(|p| f64::from_bits(u64::from(p[0].to_bits()) | u64::from(p[1].to_bits()) << 32))
            .sum();
        let norm = sum.sqrt() * f64::from(unscale);
        let factor = f64::from(unscale) * (f64::from(max_norm) / (norm + 1e-6)).min(1.0);
        let out = floats(out);
        out[0] = norm as f32;
        out[1] = if norm.is_finite() { factor as f32 } else { f32::NAN };
    }

    fn adamw(
        &self,
        weights: Tensor,
        master: Tensor,
        m: Tensor,
        v: Tensor,
        grads: Tensor,
        clip: Tensor,
        how: AdamW,
    ) {
        let n = grads.cols();
        for x in [weights, master, m, v, grads] {
            shape!(x, 1, n);
        }
        let factor = floats(clip)[1];
        if !factor.is_finite() {
            return;
        }
        let step = how.step as f64;
        let c1 = 1.0 - libm::pow(how.beta1, step);
        let c2 = 1.0 - libm::pow(how.beta2, step);
        let numbers = Numbers {
            factor,
            keep: (1.0 - f64::from(how.lr) * f64::from(how.decay)) as f32,
            rate: (f64::from(how.lr) / c1) as f32,
            root: libm::sqrt(c2) as f32,
            first: (1.0 - how.beta1) as f32,
            second: (1.0 - how.beta2) as f32,
            second_keep: how.beta2 as f32,
            eps: how.eps,
        };
        let g: &[f32] = floats(grads);
        self.blocks(n, 1 << 14, |c| {
            // SAFETY: tasks own disjoint ranges.
            unsafe {
                let w = slice_mut::<f32>(master, 0, c.start, c.len());
                let m = slice_mut::<f32>(m, 0, c.start, c.len());
                let v = slice_mut::<f32>(v, 0, c.start, c.len());
                update(w, m, v, &g[c.clone()], numbers);
                if weights.addr() != master.addr() {
                    store(weights, 0, c.start, w);
                }
            }
        });
    }
}
