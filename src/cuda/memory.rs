//! Memory of the GPU: one allocation an arena; transfers in the order of the work, but for batches written ahead.

use super::driver::check;
use super::transfer::Download;
use super::{Core, Cuda, allocate};
use crate::error::{Kind, Result};
use crate::ops::memory::{Block, Fetch, Memory, too_large};
use crate::tensor::Tensor;
use cudarc::driver::sys;
use std::sync::Arc;

/// Bytes allocated for an empty arena: the driver has no empty allocations.
const LEAST: usize = 256;

/// A read under way, whose buffer goes back to the pool even if nobody waits for it.
struct Lease {
    core: Arc<Core>,
    read: Option<Download>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(read) = self.read.take() {
            self.core.pool.put_back(read);
        }
    }
}

impl Memory for Cuda {
    fn name(&self) -> String {
        format!("cuda:{} ({})", self.core.gpu.index, self.core.gpu.name)
    }

    fn free(&self) -> Option<u64> {
        self.core.context.memory().ok().map(|(free, _)| free as u64)
    }

    fn alloc(&self, bytes: usize) -> Result<Block> {
        let stream = self.transfers();
        let (free, _) = self.core.context.memory()?;
        let bytes = bytes.max(LEAST);
        let addr = allocate(bytes).map_err(|e| match e.kind {
            Kind::Memory => too_large(bytes as u64, Some(free as u64)),
            _ => e,
        })?;
        self.core.ahead.lock().unwrap().unmark();
        let core = self.core.clone();
        let block = Block::new(addr as usize, move |addr| {
            // Recordings hold addresses.
            core.graphs.lock().unwrap().clear();
            core.context.bind();
            // SAFETY: allocated once, above; freeing waits for the GPU.
            unsafe { sys::cuMemFree_v2(addr as u64) };
        });
        // SAFETY: so many bytes were allocated.
        check(unsafe { sys::cuMemsetD8Async(addr, 0, bytes, stream.raw()) }, "clearing memory")?;
        Ok(block)
    }

    fn write(&self, dst: Tensor, src: &[u8]) {
        assert!(dst.is_dense() && dst.bytes() == src.len(), "{} bytes into {dst:?}", src.len());
        let stream = self.transfers();
        self.keep(self.core.staging.lock().unwrap().write(stream, dst.addr() as u64, src));
    }

    fn write_ahead(&self, dst: Tensor, src: &[u8]) {
        assert!(dst.is_dense() && dst.bytes() == src.len(), "{} bytes into {dst:?}", src.len());
        let stream = self.transfers();
        self.keep(self.core.ahead.lock().unwrap().write(stream, dst.addr() as u64, src));
    }

    fn read(&self, dst: &mut [u8], src: Tensor) {
        assert!(src.is_dense() && src.bytes() == dst.len(), "{} bytes from {src:?}", dst.len());
        let stream = self.transfers();
        let read = self.core.staging.lock().unwrap().read(stream, dst, src.addr() as u64);
        self.core.waited(read);
    }

    fn fetch(&self, src: Tensor) -> Fetch {
        assert!(src.is_dense(), "{src:?} has gaps");
        let stream = self.transfers();
        let started = self.core.pool.start(stream, src.addr() as u64, src.bytes());
        let read = started.map_err(|e| self.keep(Err(e))).ok();
        let lease = Lease { core: self.core.clone(), read };
        Fetch::new(move || {
            lease.core.context.bind();
            let bytes = lease.read.as_ref().map_or(Ok(Vec::new()), |read| lease.core.pool.finish(read));
            lease.core.waited(bytes)
        })
    }

    fn replay(&self, key: &[u64], work: &mut dyn FnMut()) {
        self.replay_work(key, work);
    }

    fn zero(&self, x: Tensor) {
        if x.is_empty() {
            return;
        }
        self.core.context.bind();
        let (addr, size, stream) = (x.addr() as u64, x.dtype().size(), self.core.stream.raw());
        // SAFETY: exactly the bytes of the tensor, whose memory lives by the arenas' law.
        let code = unsafe {
            match x.is_dense() {
                true => sys::cuMemsetD8Async(addr, 0, x.bytes(), stream),
                false => {
                    sys::cuMemsetD2D8Async(addr, x.stride() * size, 0, x.cols() * size, x.rows(), stream)
                }
            }
        };
        self.keep(check(code, "clearing memory"));
    }
}
