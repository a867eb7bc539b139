//! `--device`: the one place where a backend is chosen.

use super::finetune::say;
use crate::cpu::{Cpu, SHARED_BUFFER, THREAD_BUFFERS};
use crate::cuda::{self, Cuda, Found};
use crate::error::{Error, Result};
use crate::ops::Device;
use std::ops::Deref;

/// A backend, and what it takes of this machine.
pub(super) struct Machine {
    device: Box<dyn Device>,
    /// Threads of this process: of the ops on a CPU, of tokenising and conversion everywhere.
    pub(super) threads: usize,
    /// Whether arenas lie in memory of its own, not in this process's.
    pub(super) own_memory: bool,
}

impl Machine {
    /// The backend that `--device` asks for: `cpu`, `cuda`, `cuda:N`, or `auto`, the first GPU that can be used and else the
    /// CPU. `threads` 0: one a core.
    pub(super) fn open(name: &str, threads: usize) -> Result<Self> {
        if threads > 4096 {
            // Starting them would take the machine's memory before the system says no.
            let message = format!("{threads} threads are more than the 4096 that can be asked for");
            return Err(Error::usage(message).fix("lower --threads"));
        }
        // Tokenising and conversion use the process's pool; it exists already where a command needs it twice.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
        match name {
            "cpu" => Self::cpu(threads),
            "cuda" => Self::gpu(None),
            "auto" => match cuda::find() {
                Found::None(_) => Self::cpu(threads),
                Found::Broken(e) => Self::instead(&e, threads),
                Found::Gpus(_) => Self::gpu(None).or_else(|e| Self::instead(&e, threads)),
            },
            _ => match name.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(index)) => Self::gpu(Some(index)),
                _ => Err(Error::usage(format!("unknown device {name:?}"))
                    .fix("there are auto, cpu, cuda and cuda:N; `flanrt doctor` lists the GPUs")),
            },
        }
    }

    fn cpu(threads: usize) -> Result<Self> {
        let cpu = Cpu::new(threads)?;
        Ok(Self { threads: cpu.threads(), device: Box::new(cpu), own_memory: false })
    }

    /// GPU `index`, or the first that the kernels can run on.
    fn gpu(index: Option<usize>) -> Result<Self> {
        let index = match index {
            Some(index) => index,
            None => cuda::gpus()?.iter().find(|gpu| gpu.unusable().is_none()).map_or(0, |gpu| gpu.index),
        };
        Ok(Self {
            device: Box::new(Cuda::new(index)?),
            threads: rayon::current_num_threads(),
            own_memory: true,
        })
    }

    /// The CPU, with a line that says why not the GPU that is there.
    fn instead(e: &Error, threads: usize) -> Result<Self> {
        say!("note: the GPU is not used: {}", e.message);
        Self::cpu(threads)
    }

    /// Bytes of the machine's own memory in a run whose arenas are `arenas` long: they, where they lie in it, the process as
    /// it is, and the buffers of threads that run ops.
    pub(super) fn host_bytes(&self, arenas: u64) -> u64 {
        let process = super::plan::process_bytes();
        match self.own_memory {
            true => process,
            false => process + (SHARED_BUFFER + THREAD_BUFFERS * self.threads) as u64 + arenas,
        }
    }
}

impl Deref for Machine {
    type Target = dyn Device;
    fn deref(&self) -> &Self::Target {
        &*self.device
    }
}
