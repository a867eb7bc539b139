//! The CPU backend: every op of the contract on the cores of this machine.
//!
//! Tasks are cut by shape alone and each output element has one fixed order of summation, so results are the same bits for
//! any number of threads and on any vector width: all paths use fused multiply-adds in the same order. Threads are rayon's.

mod attention;
mod elem;
mod embed;
mod gemm;
mod glu;
mod loss;
mod matmul;
mod memory;
mod norm;
mod optim;
mod rope;
mod rows;
mod simd;

use crate::error::{Error, Result};
use crate::ops::{Device, Profile};
use std::sync::Mutex;

/// Bytes of buffers that a thread keeps between ops, about: the packed blocks of matmul or attention.
pub const THREAD_BUFFERS: usize = 1 << 20;

/// Bytes of the buffer that threads share, at most for inner sizes up to 32,768.
pub const SHARED_BUFFER: usize = matmul::PACKED;

/// A pool of threads that runs ops.
pub struct Cpu {
    pool: rayon::ThreadPool,
    /// Room for an operand that is packed for all tasks of a product, kept between products.
    packed: Mutex<Vec<f32>>,
}

impl Cpu {
    /// A backend on `threads` threads; 0 means one for each core this process may use.
    pub fn new(threads: usize) -> Result<Self> {
        simd::allowed()?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("flanrt-{i}"))
            .build()
            .map_err(|e| {
                Error::usage(format!("cannot start {threads} threads: {e}")).fix("lower --threads")
            })?;
        Ok(Self { pool, packed: Mutex::default() })
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs `task(i)` for every `i` in `0..n` on the pool.
    fn each(&self, n: usize, task: impl Fn(usize) + Sync + Send) {
        use rayon::prelude::*;
        if n <= 1 {
            (0..n).for_each(task);
        } else {
            self.pool.install(|| (0..n).into_par_iter().for_each(task));
        }
    }

    /// Runs `task(first..last)` over `0..n` in blocks of `size`.
    fn blocks(&self, n: usize, size: usize, task: impl Fn(std::ops::Range<usize>) + Sync + Send) {
        self.each(n.div_ceil(size), |i| task(i * size..n.min((i + 1) * size)));
    }
}

impl Device for Cpu {
    fn profile(&self) -> Profile {
        Profile::PLAIN
    }
}

/// Rows that make about `elems` elements of work: cutting by shape keeps results independent of the thread count.
fn rows_for(cols: usize, elems: usize) -> usize {
    (elems / cols.max(1)).max(1)
}
