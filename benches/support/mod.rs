//! What the benches share: memory of random numbers on a device, the table of ops with their shapes, whole steps.

pub(crate) mod cases;
pub(crate) mod ceiling;
pub(crate) mod whole;

use flanrt::arena::Arena;
use flanrt::cuda::Cuda;
use flanrt::ops::Device;
use flanrt::rng::Rng;
use flanrt::tensor::{DType, Tensor};
use std::time::{Duration, Instant};

/// Random numbers that are drawn; longer tensors repeat them.
const PATTERN: usize = 1 << 20;
/// Elements written at a time.
const PIECE: usize = 1 << 22;

/// A device, and how long its work takes.
pub(crate) enum Bench {
    /// By the host's clock: ops return when they are done.
    Host(Box<dyn Device>),
    /// By the GPU's.
    Gpu(Cuda),
}

impl Bench {
    /// The device.
    pub(crate) fn device(&self) -> &dyn Device {
        match self {
            Self::Host(device) => device.as_ref(),
            Self::Gpu(device) => device,
        }
    }

    /// How long `work` takes on the device.
    pub(crate) fn time(&self, mut work: impl FnMut()) -> Duration {
        match self {
            Self::Host(_) => {
                let start = Instant::now();
                work();
                start.elapsed()
            }
            Self::Gpu(device) => device.time(&mut work).unwrap_or_else(|e| panic!("{e}")),
        }
    }

    /// Bytes that operands must have, in all, so that a launch does not find its own in a cache. 0: no matter.
    pub(crate) fn cold_bytes(&self) -> usize {
        match self {
            Self::Host(_) => 0,
            Self::Gpu(device) => 2 * device.cache_bytes().unwrap_or_else(|e| panic!("{e}")),
        }
    }
}

/// Memory on a device, freed with it.
pub(crate) struct Stand<'a> {
    device: &'a dyn Device,
    arenas: Vec<Arena>,
    pattern: Vec<f32>,
}

impl<'a> Stand<'a> {
    /// No memory yet.
    pub(crate) fn new(device: &'a dyn Device) -> Self {
        let rng = Rng::new(1, 1);
        let pattern = (0..PATTERN as u64).map(|i| (rng.uniform(i) as f32 - 0.5) / 4.0).collect();
        Self { device, arenas: Vec::new(), pattern }
    }

    /// The device.
    pub(crate) fn device(&self) -> &'a dyn Device {
        self.device
    }

    /// Bytes in use.
    pub(crate) fn bytes(&self) -> usize {
        self.arenas.iter().map(Arena::used).sum()
    }

    /// `pattern`, repeated: bytes of `dtype`.
    fn fill(&mut self, dtype: DType, rows: usize, cols: usize, pattern: &[u8]) -> Tensor {
        let (arena, x) =
            Arena::carve(self.device, |a| a.take("x", dtype, rows, cols)).unwrap_or_else(|e| panic!("{e}"));
        let piece: Vec<u8> =
            pattern.iter().copied().cycle().take(PIECE.min(x.len()) * dtype.size()).collect();
        let flat = x.reshape(1, x.len());
        for start in (0..x.len()).step_by(PIECE) {
            let part = flat.slice_cols(start..x.len().min(start + PIECE));
            self.device.write(part, &piece[..part.bytes()]);
        }
        self.arenas.push(arena);
        x
    }

    /// Random numbers of size `1 / 8`, other ones in every tensor.
    pub(crate) fn normal(&mut self, dtype: DType, rows: usize, cols: usize) -> Tensor {
        let turn = self.arenas.len() * 7919 % PATTERN;
        let values = self.pattern[turn..].iter().chain(&self.pattern[..turn]);
        let values = values.take(rows * cols);
        let bytes: Vec<u8> = match dtype {
            DType::F32 => values.flat_map(|x| x.to_le_bytes()).collect(),
            DType::BF16 => values.flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect(),
            DType::F16 => values.flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect(),
            other => panic!("no random {}", other.name()),
        };
        self.fill(dtype, rows, cols, &bytes)
    }

    /// `value` everywhere, in bytes.
    pub(crate) fn constant(&mut self, dtype: DType, rows: usize, cols: usize, value: &[u8]) -> Tensor {
        self.fill(dtype, rows, cols, value)
    }

    /// A row of f32.
    pub(crate) fn numbers(&mut self, values: &[f32]) -> Tensor {
        self.fill(DType::F32, 1, values.len(), bytemuck::cast_slice(values))
    }

    /// A row of indices.
    pub(crate) fn index(&mut self, n: usize, value: impl Fn(usize) -> u32) -> Tensor {
        let values: Vec<u32> = (0..n).map(value).collect();
        let (arena, x) =
            Arena::carve(self.device, |a| a.take("x", DType::U32, 1, n)).unwrap_or_else(|e| panic!("{e}"));
        self.device.write(x, bytemuck::cast_slice(&values));
        self.arenas.push(arena);
        x
    }
}

/// A case, ready to run: operands in as many copies as it takes to find none of them in a cache.
pub(crate) struct Ready<'a> {
    stand: Stand<'a>,
    runs: Vec<cases::Run>,
    next: usize,
}

impl<'a> Ready<'a> {
    /// Makes the operands on `bench`.
    pub(crate) fn new(bench: &'a Bench, case: &cases::Case) -> Self {
        let mut stand = Stand::new(bench.device());
        let mut runs = vec![(case.make)(&mut stand)];
        let copies = bench.cold_bytes().div_ceil(stand.bytes().max(1)).clamp(1, 64);
        runs.extend((1..copies).map(|_| (case.make)(&mut stand)));
        Self { stand, runs, next: 0 }
    }

    /// Runs it `n` times, taking turns with the copies.
    pub(crate) fn run(&mut self, n: u64) {
        for _ in 0..n {
            self.runs[self.next](self.stand.device());
            self.next = (self.next + 1) % self.runs.len();
        }
    }

    /// Copies of the operands.
    pub(crate) fn copies(&self) -> usize {
        self.runs.len()
    }
}
