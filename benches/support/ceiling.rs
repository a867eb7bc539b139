//! What the cores can do at best, measured beside the ops: multiply-adds in registers alone, and a copy of memory.

use std::time::Instant;

/// Multiply-adds of a round: enough chains to hide the latency of each.
const CHAINS: usize = 20;
/// Rounds of a measurement: some 100 ms.
const ROUNDS: usize = 20_000_000;

/// The best of three tries of `work` on `threads` threads at once, in units a second; a thread does `units`.
fn rate(threads: usize, units: f64, work: impl Fn() + Sync) -> f64 {
    let mut best = 0f64;
    for _ in 0..3 {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(&work);
            }
        });
        best = best.max(threads as f64 * units / start.elapsed().as_secs_f64());
    }
    best
}

/// Operations a second of f32 multiply-adds (a multiply-add is two).
pub(crate) fn f32_flops(threads: usize) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the machine has it.
        return rate(threads, (ROUNDS * CHAINS * 32) as f64, || unsafe { x86::f32_512(ROUNDS) });
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the machine has both.
        return rate(threads, (ROUNDS * CHAINS * 16) as f64, || unsafe { x86::f32_256(ROUNDS) });
    }
    rate(threads, (ROUNDS * CHAINS * 8) as f64, || {
        let mut sums = [[0.5f32; 4]; CHAINS];
        for _ in 0..ROUNDS {
            for sum in sums.iter_mut().flatten() {
                *sum = sum.mul_add(0.999, 0.001);
            }
        }
        std::hint::black_box(sums);
    })
}

/// The same of products of bf16 pairs, where the machine has them.
pub(crate) fn bf16_flops(threads: usize) -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512bf16") {
        // SAFETY: the machine has it.
        return Some(rate(threads, (ROUNDS * CHAINS * 64) as f64, || unsafe { x86::bf16(ROUNDS) }));
    }
    let _ = threads;
    None
}

/// Bytes a second that are read and written when more than any cache holds is copied.
pub(crate) fn copy_bytes(threads: usize) -> f64 {
    const BYTES: usize = 64 << 20;
    let mut buffers: Vec<_> = (0..threads).map(|_| (vec![1u8; BYTES], vec![2u8; BYTES])).collect();
    let mut best = 0f64;
    for _ in 0..5 {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for (from, to) in &mut buffers {
                scope.spawn(|| to.copy_from_slice(std::hint::black_box(from)));
            }
        });
        best = best.max((2 * threads * BYTES) as f64 / start.elapsed().as_secs_f64());
    }
    best
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::CHAINS;
    use std::arch::x86_64::*;
    use std::hint::black_box;

    #[target_feature(enable = "avx512f")]
    pub(super) fn f32_512(rounds: usize) {
        let mut sums = [_mm512_set1_ps(0.5); CHAINS];
        let (x, y) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
        for _ in 0..rounds {
            for i in 0..CHAINS {
                sums[i] = _mm512_fmadd_ps(sums[i], x, y);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn f32_256(rounds: usize) {
        let mut sums = [_mm256_set1_ps(0.5); CHAINS];
        let (x, y) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
        for _ in 0..rounds {
            for i in 0..CHAINS {
                sums[i] = _mm256_fmadd_ps(sums[i], x, y);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn bf16(rounds: usize) {
        let mut sums = [_mm512_set1_ps(0.5); CHAINS];
        // SAFETY: both are 512 bits.
        let x =
            unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(black_box(0x3f80_0000))) };
        for _ in 0..rounds {
            for i in 0..CHAINS {
                sums[i] = _mm512_dpbf16_ps(sums[i], x, x);
            }
        }
        black_box(sums);
    }
}
