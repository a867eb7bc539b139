//! Memory: allocation, transfers, zeroing.

use crate::error::Result;
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

/// Where tensors live.
pub trait Memory {
    /// What to call this device on screen, e.g. `cpu x2 (avx512)`.
    fn name(&self) -> String;
    /// `bytes` zeroed bytes, aligned to 64. Too much: an error of kind `Memory` with the size.
    fn alloc(&self, bytes: usize) -> Result<Block>;
    /// `dst = src`; `dst` dense, `src` exactly its bytes.
    fn write(&self, dst: Tensor, src: &[u8]);
    /// `dst = src`; `src` dense, `dst` exactly its bytes. Waits for all work before it.
    fn read(&self, dst: &mut [u8], src: Tensor);
    /// `x = 0`.
    fn zero(&self, x: Tensor);
}
