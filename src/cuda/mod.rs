//! The CUDA backend: every op of the contract on one GPU.
//!
//! All work of a device is one stream, in the order it was asked for: kernels, copies and recorded work alike, so that no
//! op waits for another and nothing has to be ordered by hand; only `write_ahead` has one of its own. The host runs ahead
//! and waits only in `read` and `Fetch::wait`. What the GPU or its driver refuses before that is kept and comes out there, as a thrown error of kind
//! `Device`.
//!
//! The kernels are in `kernels/*.cu`; `launch` has their table. Each op family is one file here, one in `ops` and one there.

mod attention;
mod driver;
mod elem;
mod embed;
mod glu;
mod graph;
mod images;
mod launch;
mod loss;
mod matmul;
mod memory;
mod norm;
mod optim;
mod rope;
mod rows;
mod time;
mod transfer;

pub use driver::{Found, Gpu, driver_version, find, gpus};
pub use images::{ARCHS, IMAGES, Image};

use crate::error::{Error, Result};
use crate::ops::{Device, Profile};
use crate::tensor::DType;
use cudarc::driver::sys;
use driver::{Context, Module, Stream, check};
use graph::Graphs;
use launch::Functions;
use std::sync::{Arc, Mutex};
use transfer::{Ahead, Pool, Staging};

/// Bytes of scratch that ops have in common.
const WORKSPACE: usize = 64 << 20;

/// One GPU that runs ops. One thread at a time drives it; several may take turns.
pub struct Cuda {
    core: Arc<Core>,
}

/// What a device is made of. Blocks of memory and transfers under way hold it too: it goes when the last of them does, in
/// the order of the fields.
struct Core {
    functions: Functions,
    /// Functions live as long as their modules.
    _modules: Vec<Module>,
    workspace: u64,
    /// The first thing that went wrong since the last wait.
    failed: Mutex<Option<Error>>,
    /// `FLANRT_CUDA_SYNC=1`: wait after every launch, so that an error names its kernel.
    wait_always: bool,
    graphs: Mutex<Graphs>,
    staging: Mutex<Staging>,
    ahead: Mutex<Ahead>,
    pool: Pool,
    stream: Stream,
    gpu: Gpu,
    context: Context,
}

impl Cuda {
    /// Opens GPU `index` and loads the kernels for it.
    pub fn new(index: usize) -> Result<Self> {
        let gpus = driver::gpus()?;
        let count = gpus.len();
        let Some(gpu) = gpus.into_iter().nth(index) else {
            return Err(Error::device(format!("there is no GPU {index}: the driver shows {count}"))
                .fix("GPUs are counted from 0, as in cuda:0; `flanrt doctor` lists them"));
        };
        if let Some(error) = gpu.unusable() {
            return Err(error);
        }
        let context = Context::new(index)?;
        let modules = load_images(&gpu)?;
        let functions = Functions::load(&modules, gpu.capability)?;
        let stream = Stream::new()?;
        let (staging, ahead) = (Staging::new()?, Ahead::new()?);
        let workspace = allocate(WORKSPACE)?;
        let set = |name: &str, to: &str| std::env::var(name).is_ok_and(|v| v == to);
        let wait_always = set("FLANRT_CUDA_SYNC", "1");
        let core = Core {
            functions,
            _modules: modules,
            workspace,
            failed: Mutex::new(None),
            wait_always,
            graphs: Mutex::new(Graphs::new(!wait_always && !set("FLANRT_CUDA_GRAPHS", "0"))),
            staging: Mutex::new(staging),
            ahead: Mutex::new(ahead),
            pool: Pool::new(),
            stream,
            gpu,
            context,
        };
        Ok(Self { core: Arc::new(core) })
    }

    /// Keeps the first error until the next wait.
    fn keep(&self, result: Result<()>) {
        if let Err(error) = result {
            self.core.failed.lock().unwrap().get_or_insert(error);
        }
    }

    /// With `FLANRT_CUDA_SYNC=1`: the error of `symbol` itself, instead of at the next wait.
    fn after_launch(&self, symbol: &str) -> Result<()> {
        match self.core.wait_always {
            true => self.core.stream.wait().map_err(|e| e.at(symbol)),
            false => Ok(()),
        }
    }

    /// The stream, for work that cannot be part of a recording.
    fn transfers(&self) -> &Stream {
        self.core.context.bind();
        assert!(!self.core.stream.records(), "work that is replayed has neither transfers nor memory");
        &self.core.stream
    }
}

impl Device for Cuda {
    fn profile(&self) -> Profile {
        Profile {
            dtype: DType::BF16,
            tokens: 1 << 14,
            logits: 1 << 30,
            // Waves of tiles hide a few rows of filling; few different sizes are few recordings.
            multiple: 128,
            table: attention::TABLE,
            dq_scratch: false,
        }
    }
}

/// The images for this GPU, loaded into its context.
fn load_images(gpu: &Gpu) -> Result<Vec<Module>> {
    let load = |image: &Image| {
        use sys::CUresult as C;
        Module::load(image.bytes).map_err(|code| match code {
            C::CUDA_ERROR_INVALID_IMAGE if ARCHS.is_empty() => Error::device(
                "built without CUDA kernels: no nvcc was used when this binary was compiled",
            )
            .fix("run `make cuda-toolkit` and build again with `cargo build --release`, or use --device cpu"),
            C::CUDA_ERROR_INVALID_IMAGE | C::CUDA_ERROR_NO_BINARY_FOR_GPU => Error::device(format!(
                "this build has kernels for {}; {} needs sm_{}",
                ARCHS.join(", "),
                gpu.name,
                gpu.capability
            ))
            .fix(format!("build again with FLANRT_CUDA_ARCHS={}", gpu.capability)),
            code => check(code, &format!("loading the kernels of {}.cu", image.stem)).unwrap_err(),
        })
    };
    IMAGES.iter().filter(|image| image.fits(gpu.capability)).map(load).collect()
}

/// Device memory of the current context.
fn allocate(bytes: usize) -> Result<u64> {
    let mut addr = 0;
    // SAFETY: place for one address.
    check(unsafe { sys::cuMemAlloc_v2(&mut addr, bytes) }, &format!("allocating {bytes} bytes"))?;
    Ok(addr)
}

impl Core {
    /// What a wait came to; what failed before it comes first.
    fn waited<T>(&self, result: Result<T>) -> T {
        let before = self.failed.lock().unwrap().take();
        match (before, result) {
            (None, Ok(result)) => result,
            (Some(error), _) | (None, Err(error)) => error.throw(),
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.context.bind();
        // SAFETY: allocated once, in `new`; freeing waits for the GPU.
        unsafe { sys::cuMemFree_v2(self.workspace) };
    }
}

/// Symbol and parameter types (`*const bf16`, `i64`) of every kernel: for the tests that compare the table with what was
/// compiled.
#[doc(hidden)]
pub fn kernel_table() -> Vec<(String, Vec<String>)> {
    launch::table()
}
