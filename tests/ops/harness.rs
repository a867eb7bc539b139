//! Devices, tensors with guarded surroundings, and comparisons.
//!
//! Every tensor lies inside a larger one filled with 0xff bytes (NaN in every float dtype, out of range as an index): an op
//! that reads outside its operands gives NaN, one that writes there is caught by `Stand::check_guards`. Outputs that are
//! *set* start as such bytes too.

use flanrt::arena::Arena;
use flanrt::cpu::Cpu;
use flanrt::cuda::Cuda;
use flanrt::ops::Device;
use flanrt::rng::Rng;
use flanrt::tensor::{DType, Tensor};
use flanrt_emulator::Mode;
use std::cell::{Cell, RefCell};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// The storage dtypes every op takes.
pub(crate) const DTYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// Those that have code of their own: the checker takes its time, and the kernels for f16 are those for bf16 with another type.
pub(crate) fn dtypes() -> &'static [DType] {
    if checked() { &DTYPES[..2] } else { &DTYPES }
}

/// Errors of f32 arithmetic, relative to an output's size and to the root mean square of all: a chain of 600 random terms
/// is off by about 2e-6 at worst.
pub(crate) const ARITH: f64 = 4e-6;

/// Unit roundoff of a storage dtype (half a unit in the last place, relative) and the absolute part for subnormals.
fn roundoff(dtype: DType) -> (f64, f64) {
    match dtype {
        DType::F32 => (0.5f64.powi(24), 1e-37),
        DType::BF16 => (0.5f64.powi(8), 1e-37),
        DType::F16 => (0.5f64.powi(11), 0.5f64.powi(25)),
        DType::U32 | DType::U16 => (0.0, 0.0),
    }
}

/// Factors rounded to `dtype`: the errors of the terms are independent, so four standard deviations of one.
fn rounded_factor(dtype: DType) -> f64 {
    if dtype == DType::F32 { 0.0 } else { 4.0 * roundoff(dtype).0 }
}

/// Devices that must agree bit for bit.
pub(crate) struct Kind {
    pub(crate) devices: Vec<Box<dyn Device>>,
    /// Whether factors of 16-bit products are rounded to 16 bits wherever they come from: probabilities, gradients of logits.
    /// Tensor cores take them so.
    rounds: bool,
    /// Held while an op is tested: a GPU has one stream and one scratch.
    turn: Mutex<()>,
}

impl Kind {
    /// Waits for the others that test it.
    pub(crate) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The GPU: a real one where `FLANRT_REQUIRE_GPU=1` demands it, else the emulated driver (`FLANRT_EMULATOR=checked`: with its
/// checker, and nothing beside it).
fn cuda() -> Option<Box<dyn Device>> {
    if std::env::var("FLANRT_REQUIRE_GPU").is_ok_and(|v| v == "1") {
        return Some(Box::new(Cuda::new(0).unwrap_or_else(|e| panic!("FLANRT_REQUIRE_GPU=1: {e}"))));
    }
    if let Err(why) = flanrt_emulator::available() {
        println!("skipped: no emulated CUDA driver: {why}");
        return None;
    }
    flanrt_emulator::install(if checked() { Mode::Checked } else { Mode::Plain });
    Some(Box::new(Cuda::new(0).expect("an emulated GPU")))
}

/// Whether the tests are run on the emulator with its checker.
pub(crate) fn checked() -> bool {
    std::env::var("FLANRT_EMULATOR").is_ok_and(|v| v == "checked")
}

/// All backends, by kind: CPUs with various numbers of threads, a GPU.
pub(crate) fn kinds() -> &'static [Kind] {
    static ALL: OnceLock<Vec<Kind>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut kinds = Vec::new();
        if !checked() {
            let cpu = |threads| Box::new(Cpu::new(threads).expect("a thread pool")) as Box<dyn Device>;
            let devices = vec![cpu(1), cpu(2), cpu(3)];
            kinds.push(Kind { devices, rounds: false, turn: Mutex::new(()) });
        }
        if let Some(gpu) = cuda() {
            kinds.push(Kind { devices: vec![gpu], rounds: true, turn: Mutex::new(()) });
        }
        kinds
    })
}

/// Runs `op` on every device, and twice on the first of a kind; the tensors it returns must be the same bits within a kind.
pub(crate) fn everywhere(what: &str, op: impl Fn(&Stand) -> Vec<Tensor>) {
    for kind in kinds() {
        let _turn = kind.turn();
        let mut first: Option<Vec<Vec<u8>>> = None;
        for device in kind.devices.iter().chain(&kind.devices[..1]) {
            let mut stand = Stand::new(device.as_ref(), first.is_none());
            stand.rounds = kind.rounds;
            let out = op(&stand);
            stand.check_guards(what);
            let bits: Vec<_> = out.iter().map(|&t| stand.bits(t)).collect();
            let first = first.get_or_insert_with(|| bits.clone());
            assert!(*first == bits, "{what}: other bits on {}", device.name());
        }
    }
}

/// How a tensor lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lay {
    /// Rows without gaps.
    Dense,
    /// A column range of a wider tensor.
    Strided,
}
pub(crate) use Lay::{Dense, Strided};

/// A device, the tensors made on it, and a stream of random numbers that is the same on every device.
pub(crate) struct Stand<'a> {
    pub(crate) device: &'a dyn Device,
    rounds: bool,
    /// Whether `close` compares: once a kind is enough, the others must have the same bits.
    compares: bool,
    arenas: RefCell<Vec<Arena>>,
    areas: RefCell<Vec<(Tensor, Tensor)>>,
    stream: Cell<u64>,
}

impl<'a> Stand<'a> {
    pub(crate) fn new(device: &'a dyn Device, compares: bool) -> Self {
        Self {
            device,
            rounds: false,
            compares,
            arenas: RefCell::default(),
            areas: RefCell::default(),
            stream: Cell::new(0),
        }
    }

    /// What an element of a product may be off by, relative to the root mean square of all, because a factor was rounded to
    /// `dtype` on its way: nothing on a CPU.
    pub(crate) fn rounding(&self, dtype: DType) -> f64 {
        if self.rounds { rounded_factor(dtype) } else { 0.0 }
    }

    /// The same for products with the gradient of logits, which a CPU, too, keeps in bf16 where the weights are.
    pub(crate) fn rounding_of_logits(&self, dtype: DType) -> f64 {
        if dtype == DType::BF16 { rounded_factor(dtype) } else { self.rounding(dtype) }
    }

    /// A tensor of 0xff bytes inside a guarded area.
    pub(crate) fn blank(&self, lay: Lay, dtype: DType, rows: usize, cols: usize) -> Tensor {
        let (before, width) = if lay == Dense { (0, cols) } else { (3, cols + 8) };
        let (arena, whole) =
            Arena::carve(self.device, |arena| arena.take("area", dtype, rows + 2, width)).expect("memory");
        self.device.write(whole, &vec![0xff; whole.bytes()]);
        let view = whole.slice_rows(1..rows + 1).slice_cols(before..before + cols);
        self.arenas.borrow_mut().push(arena);
        self.areas.borrow_mut().push((whole, view));
        view
    }

    /// A tensor of `values`, rounded to `dtype`.
    pub(crate) fn put(&self, lay: Lay, dtype: DType, rows: usize, cols: usize, values: &[f64]) -> Tensor {
        let x = self.blank(lay, dtype, rows, cols);
        self.fill(x, values);
        x
    }

    /// `x = values`.
    pub(crate) fn fill(&self, x: Tensor, values: &[f64]) {
        assert_eq!(values.len(), x.len());
        for r in 0..x.rows() {
            let row = &values[r * x.cols()..][..x.cols()];
            let bytes: Vec<u8> = match x.dtype() {
                DType::F32 => row.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect(),
                DType::BF16 => {
                    row.iter().flat_map(|&v| half::bf16::from_f32(v as f32).to_le_bytes()).collect()
                }
                DType::F16 => row.iter().flat_map(|&v| half::f16::from_f32(v as f32).to_le_bytes()).collect(),
                DType::U32 => row.iter().flat_map(|&v| (v as u32).to_le_bytes()).collect(),
                DType::U16 => row.iter().flat_map(|&v| (v as u16).to_le_bytes()).collect(),
            };
            self.device.write(x.slice_rows(r..r + 1), &bytes);
        }
    }

    /// Normal random values times `scale`.
    pub(crate) fn normals(&self, n: usize, scale: f64) -> Vec<f64> {
        self.stream.set(self.stream.get() + 1);
        let rng = Rng::new(20_240_607, self.stream.get());
        (0..n as u64).map(|i| scale * rng.normal(i)).collect()
    }

    /// A tensor of them.
    pub(crate) fn normal(&self, lay: Lay, dtype: DType, rows: usize, cols: usize, scale: f64) -> Tensor {
        self.put(lay, dtype, rows, cols, &self.normals(rows * cols, scale))
    }

    /// A row of indices.
    pub(crate) fn index(&self, values: &[u32]) -> Tensor {
        let values: Vec<f64> = values.iter().map(|&x| f64::from(x)).collect();
        self.put(Dense, DType::U32, 1, values.len(), &values)
    }

    /// A row of indices of any 32 bits.
    pub(crate) fn raw_index(&self, values: &[u32]) -> Tensor {
        let x = self.blank(Dense, DType::U32, 1, values.len());
        self.device.write(x, &Vec::from_iter(values.iter().flat_map(|v| v.to_le_bytes())));
        x
    }

    /// The bytes of `x`.
    pub(crate) fn bits(&self, x: Tensor) -> Vec<u8> {
        let mut out = vec![0; x.bytes()];
        let row = x.cols() * x.dtype().size();
        for r in 0..x.rows() {
            self.device.read(&mut out[r * row..][..row], x.slice_rows(r..r + 1));
        }
        out
    }

    /// The numbers in `x` as stored.
    pub(crate) fn get(&self, x: Tensor) -> Vec<f64> {
        let bits = self.bits(x);
        let pairs = || bits.chunks_exact(2).map(|b| [b[0], b[1]]);
        let quads = || bits.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
        match x.dtype() {
            DType::F32 => quads().map(|b| f64::from(f32::from_le_bytes(b))).collect(),
            DType::BF16 => pairs().map(|b| half::bf16::from_le_bytes(b).to_f64()).collect(),
            DType::F16 => pairs().map(|b| half::f16::from_le_bytes(b).to_f64()).collect(),
            DType::U32 => quads().map(|b| f64::from(u32::from_le_bytes(b))).collect(),
            DType::U16 => pairs().map(|b| f64::from(u16::from_le_bytes(b))).collect(),
        }
    }

    /// `got` is `want` within `arith` (see [`ARITH`]) and one rounding to the storage dtype.
    pub(crate) fn close(&self, what: &str, arith: f64, got: Tensor, want: impl FnOnce() -> Vec<f64>) {
        if self.compares {
            close(&format!("{what} on {}", self.device.name()), got.dtype(), arith, &self.get(got), &want());
        }
    }

    /// Panics if anything around the tensors of this stand has been written.
    pub(crate) fn check_guards(&self, what: &str) {
        for (whole, view) in self.areas.borrow().iter() {
            let bytes = self.bits(*whole);
            let (size, width) = (whole.dtype().size(), whole.stride() * whole.dtype().size());
            let left = (view.addr() - whole.addr()) % width.max(1);
            for (i, byte) in bytes.iter().enumerate() {
                let (r, c) = (i / width, i % width);
                let inside = (1..=view.rows()).contains(&r) && (left..left + view.cols() * size).contains(&c);
                assert!(inside || *byte == 0xff, "{what}: wrote outside of {view:?} (row {r}, byte {c})");
            }
        }
    }
}

/// Panics unless `got` is `want`: the error of an element is at most one rounding to `dtype` and `arith` times its size and
/// the root mean square of all.
pub(crate) fn close(what: &str, dtype: DType, arith: f64, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}: number of elements");
    let rms = (want.iter().map(|w| w * w).sum::<f64>() / want.len().max(1) as f64).sqrt();
    let (unit, least) = roundoff(dtype);
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let allowed = w.abs() * unit + arith * (w.abs() + rms) + least;
        assert!((g - w).abs() <= allowed, "{what} {dtype:?}: element {i} is {g}, not {w} +- {allowed:.2e}");
    }
}

/// The gradient of `f` at `x` by central differences.
pub(crate) fn derivative(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const H: f64 = 1e-5; // f64: truncation and rounding are both near 1e-10
    let mut moved = x.to_vec();
    (0..x.len())
        .map(|i| {
            moved[i] = x[i] + H;
            let up = f(&moved);
            moved[i] = x[i] - H;
            let down = f(&moved);
            moved[i] = x[i];
            (up - down) / (2.0 * H)
        })
        .collect()
}

/// `sum a_i b_i`.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
