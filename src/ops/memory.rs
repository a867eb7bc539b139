//! Memory: allocation, transfers, zeroing.

use crate::error::{Error, Kind, Result};
use crate::tensor::Tensor;

/// Device memory that is freed when dropped.
pub struct Block {
    addr: usize,
    free: Option<Box<dyn FnOnce(usize) + Send + Sync>>,
}

impl Block {
    /// The block at `addr`, given back by `free`.
    pub fn new(addr: usize, free: impl FnOnce(usize) + Send + Sync + 'static) -> Self {
        Self { addr, free: Some(Box::new(free)) }
    }
    /// Address of the first byte.
    pub fn addr(&self) -> usize {
        self.addr
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(free) = self.free.take() {
            free(self.addr);
        }
    }
}

/// The error of an allocation of `bytes` where `free` are left, if that is known.
pub fn too_large(bytes: u64, free: Option<u64>) -> Error {
    let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
    let of = free.map_or(String::new(), |free| format!(" of the {:.0} MiB that are free", mib(free)));
    Error::new(Kind::Memory, format!("cannot allocate {:.0} MiB{of}", mib(bytes)))
        .fix("training: lower --micro-batch or --seq-len, or --recompute block; scoring: lower --max-length; both: a 16-bit --dtype")
}

/// Bytes on their way from the device.
pub struct Fetch(Box<dyn FnOnce() -> Vec<u8>>);

impl Fetch {
    /// Bytes that `wait` waits for.
    pub fn new(wait: impl FnOnce() -> Vec<u8> + 'static) -> Self {
        Self(Box::new(wait))
    }
    /// The bytes, when they are here.
    pub fn wait(self) -> Vec<u8> {
        (self.0)()
    }
}

/// Where tensors live.
pub trait Memory {
    /// What to call this device on screen, e.g. `cpu x2 (avx512)`.
    fn name(&self) -> String;
    /// Bytes that could be allocated now, where the device can tell.
    fn free(&self) -> Option<u64>;
    /// `bytes` zeroed bytes, aligned to 64. Too much: an error of kind `Memory` with the size.
    fn alloc(&self, bytes: usize) -> Result<Block>;
    /// `dst = src`; `dst` dense, `src` exactly its bytes, which are copied before this returns.
    fn write(&self, dst: Tensor, src: &[u8]);
    /// `dst = src`; `src` dense, `dst` exactly its bytes. Waits for all work before it.
    fn read(&self, dst: &mut [u8], src: Tensor);
    /// Like `write`, for a `dst` that no work since the last [`replay`](Memory::replay) but one touches: it may run beside
    /// that work.
    fn write_ahead(&self, dst: Tensor, src: &[u8]) {
        self.write(dst, src);
    }
    /// Like `read`, without waiting: later work may change `src`, the bytes are those of now. `src` dense.
    fn fetch(&self, src: Tensor) -> Fetch;
    /// Runs `work`, ops alone: no transfers, no memory. Under the same `key` it must come to the same ops on the same
    /// tensors, so that a device may record it and play it again.
    fn replay(&self, key: &[u64], work: &mut dyn FnMut()) {
        let _ = key;
        work();
    }
    /// `x = 0`.
    fn zero(&self, x: Tensor);
}
