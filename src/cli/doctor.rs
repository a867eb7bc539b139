//! `flanrt doctor`: what this machine has to compute with, and how fast it is.

use super::Global;
use super::device::Machine;
use crate::cuda::{self, Cuda, Found, Gpu};
use crate::disk::human_bytes;
use crate::error::{self, Error, Result};
use crate::ops::{Block, Device, Epilogue, Form};
use crate::tensor::{DType, Tensor};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Largest matrix product and copy that are measured, and how long one may take: a GPU reaches the sizes, others the time.
const SIDE: usize = 8192;
const COPY: usize = 1 << 30;
const LONG: Duration = Duration::from_millis(100);

/// What a device reached.
struct Rates {
    /// Bytes read and written a second, in GB.
    copy: f64,
    /// Of a product of square matrices in the device's own dtype, in TFLOP/s, with the matrices' side.
    product: (f64, usize, DType),
}

/// Memory of `device` for a tensor, filled with numbers between -1 and 1.
fn filled(device: &dyn Device, dtype: DType, rows: usize, cols: usize) -> Result<(Block, Tensor)> {
    let block = device.alloc(rows * cols * dtype.size())?;
    // SAFETY: so many bytes were allocated, and the block is kept beside the tensor.
    let tensor = unsafe { Tensor::over(block.addr(), dtype, rows, cols) };
    // A GPU is faster on zeros than on numbers; a pattern of some rows is enough to be numbers.
    let pattern: Vec<f32> = (0..1u32 << 16)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0)
        .collect();
    let bytes: Vec<u8> = match dtype {
        DType::BF16 => pattern.iter().flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes()).collect(),
        _ => pattern.iter().flat_map(|x| x.to_le_bytes()).collect(),
    };
    let flat = tensor.reshape(1, tensor.len());
    let mut from = 0;
    while from < flat.len() {
        let n = (flat.len() - from).min(pattern.len());
        device.write(flat.slice_cols(from..from + n), &bytes[..n * dtype.size()]);
        from += n;
    }
    Ok((block, tensor))
}

/// Seconds that `work` takes: the best of three, each long enough that starting it does not count.
fn seconds(device: &dyn Device, end: Tensor, work: &dyn Fn()) -> f64 {
    let run = |times: u32| {
        let start = Instant::now();
        (0..times).for_each(|_| work());
        device.read(&mut vec![0; end.bytes()], end);
        start.elapsed()
    };
    run(1); // what is set up once
    let once = run(1).max(Duration::from_micros(1));
    let times = (LONG.as_secs_f64() / once.as_secs_f64()).clamp(1.0, 100.0) as u32;
    let best = (0..3).map(|_| run(times)).min().unwrap_or_default();
    best.as_secs_f64() / f64::from(times)
}

/// Grows `size` by doubling it until `rate` takes long or `most` is reached; what it gives last.
fn grow<T>(mut size: usize, most: usize, mut rate: impl FnMut(usize) -> Result<(f64, T)>) -> Result<T> {
    loop {
        let (seconds, result) = rate(size)?;
        if size >= most || seconds > LONG.as_secs_f64() / 8.0 {
            return Ok(result);
        }
        size *= 2;
    }
}

fn measure(device: &dyn Device) -> Result<Rates> {
    let free = device.free().map_or(COPY, |free| (free / 8) as usize);
    let most = COPY.min(free.next_power_of_two() / 2).max(1 << 20);
    let copy = grow(1 << 20, most, |bytes| {
        let (_from, x) = filled(device, DType::F32, 1, bytes / 4)?;
        let (_to, y) = filled(device, DType::F32, 1, bytes / 4)?;
        let s = seconds(device, y.slice_cols(0..1), &|| device.convert(y, x));
        Ok((s, 2.0 * bytes as f64 / s / 1e9))
    })?;
    let dtype = device.profile().dtype;
    let product = grow(128, SIDE, |n| {
        let (_a, a) = filled(device, dtype, n, n)?;
        let (_b, b) = filled(device, dtype, n, n)?;
        let (_y, y) = filled(device, dtype, n, n)?;
        let work = || device.matmul(y, a, b, Form::NT, Epilogue::default());
        let s = seconds(device, y.slice_rows(0..1).slice_cols(0..1), &work);
        Ok((s, (2.0 * (n as f64).powi(3) / s / 1e12, n, dtype)))
    })?;
    Ok(Rates { copy, product })
}

impl Rates {
    fn json(&self) -> Value {
        let (tflops, side, dtype) = self.product;
        json!({"copy_gb_s": self.copy, "matmul_tflops": tflops, "matmul_side": side, "matmul_dtype": dtype.name()})
    }

    fn line(&self) -> String {
        let (tflops, side, dtype) = self.product;
        let product = match tflops < 1.0 {
            true => format!("{:.1} GFLOP/s", tflops * 1e3),
            false => format!("{tflops:.0} TFLOP/s"),
        };
        format!("copies {:.1} GB/s, multiplies {product} ({} {side}x{side})", self.copy, dtype.name())
    }
}

/// The processor's name, where the system tells it.
fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name"));
    name.and_then(|rest| rest.split_once(':'))
        .map_or(std::env::consts::ARCH, |(_, name)| name.trim())
        .to_owned()
}

/// The findings about a GPU: as JSON, and as lines.
fn gpu(gpu: &Gpu) -> (Value, Vec<String>) {
    let (free, rates) = match gpu.unusable() {
        Some(e) => (None, Err(e)),
        None => match error::catch(|| Cuda::new(gpu.index)) {
            Ok(device) => (crate::ops::Memory::free(&device), error::catch(|| measure(&device))),
            Err(e) => (None, Err(e)),
        },
    };
    let mut found = json!({
        "index": gpu.index, "name": gpu.name, "capability": gpu.capability, "multiprocessors": gpu.sms,
        "memory": gpu.memory, "free": free,
    });
    let memory = match free {
        Some(free) => format!("{}, {} free", human_bytes(gpu.memory), human_bytes(free)),
        None => human_bytes(gpu.memory),
    };
    let mut lines = vec![format!(
        "cuda:{}   {}  sm_{}  {} multiprocessors  {memory}",
        gpu.index, gpu.name, gpu.capability, gpu.sms
    )];
    match rates {
        Ok(rates) => {
            found["rates"] = rates.json();
            lines.push(format!("         {}", rates.line()));
        }
        Err(e) => {
            lines.extend(because("         cannot be used: ", &e));
            found["unusable"] = json!({"reason": e.message, "fix": e.fix});
        }
    }
    (found, lines)
}

/// An error as lines.
fn because(begin: &str, e: &Error) -> Vec<String> {
    let fix = e.fix.as_ref().map(|fix| format!("         fix: {fix}"));
    std::iter::once(format!("{begin}{}", e.message)).chain(fix).collect()
}

pub(super) fn run(global: &Global) -> Result<()> {
    let cpu = Machine::open("cpu", global.threads.unwrap_or(0))?;
    let rates = measure(&*cpu)?;
    let mut lines = vec![
        format!("flanrt   {}", env!("CARGO_PKG_VERSION")),
        format!("cpu      {}  {}", processor(), cpu.name()),
        format!("         {}", rates.line()),
    ];
    let mut found = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "cpu": {"name": processor(), "threads": cpu.threads, "device": cpu.name(), "rates": rates.json()},
    });
    let driver = cuda::driver_version();
    if let Some(version) = driver {
        lines.push(format!("driver   CUDA {}.{}", version / 1000, version % 1000 / 10));
    }
    let stems: Vec<_> = cuda::IMAGES.iter().map(|image| image.stem).collect();
    lines.push(match cuda::ARCHS {
        [] => "kernels  none in this build".to_owned(),
        archs => format!("kernels  {} for {}", stems.join(", "), archs.join(", ")),
    });
    let mut gpus = Vec::new();
    let mut unavailable = Value::Null;
    match cuda::find() {
        Found::Gpus(all) => {
            for (value, more) in all.iter().map(gpu) {
                gpus.push(value);
                lines.extend(more);
            }
        }
        Found::None(e) | Found::Broken(e) => {
            lines.extend(because("cuda     ", &e));
            unavailable = json!({"reason": e.message, "fix": e.fix});
        }
    }
    found["cuda"] = json!({
        "driver": driver, "images": stems, "compiled_for": cuda::ARCHS, "unavailable": unavailable, "gpus": gpus,
    });
    super::print(&if global.json { found.to_string() } else { lines.join("\n") })
}
