//! Arenas: all memory of a run, planned before the first step.
//!
//! A layout is a function that takes tensors from an `Arena`. It runs twice: on a measuring arena (no memory, every address
//! an offset), whose table is what `flanrt plan` prints, and on a real one of exactly that size. Nothing is allocated later.

use crate::error::Result;
use crate::ops::{Block, Device};
use crate::tensor::{DType, Tensor};

/// Every tensor starts at a multiple of so many elements: full vectors, and the same element offsets in arenas of the same
/// layout but another dtype, so that weights, gradients and moments can be walked as flat ranges side by side.
const ALIGN: usize = 64;

/// A named part of an arena.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Entry {
    /// What it is for.
    pub name: String,
    /// Its size with padding.
    pub bytes: u64,
}

/// Memory handed out front to back.
#[derive(Default)]
pub struct Arena {
    base: usize,
    used: usize,
    limit: usize,
    entries: Vec<Entry>,
    _block: Option<Block>,
}

impl Arena {
    /// An arena that only measures.
    pub fn measure() -> Self {
        Self { limit: usize::MAX, ..Self::default() }
    }

    /// Carves `layout` on `device`: measures it, allocates exactly that (zeroed), runs it for real.
    pub fn carve<T>(device: &dyn Device, mut layout: impl FnMut(&mut Arena) -> T) -> Result<(Self, T)> {
        let mut measured = Self::measure();
        layout(&mut measured);
        let block = device.alloc(measured.used)?;
        let mut arena =
            Self { base: block.addr(), limit: measured.used, _block: Some(block), ..Self::default() };
        let parts = layout(&mut arena);
        assert_eq!(arena.used, measured.used, "a layout must take the same tensors every time");
        Ok((arena, parts))
    }

    /// The next `[rows, cols]` elements of `dtype`, counted under `name` (same names add up).
    pub fn take(&mut self, name: &str, dtype: DType, rows: usize, cols: usize) -> Tensor {
        let tensor = Tensor::new(self.base + self.used, dtype, rows, cols);
        let bytes = tensor.len().next_multiple_of(ALIGN) * dtype.size();
        assert!(self.used + bytes <= self.limit, "arena overrun at {name}");
        self.used += bytes;
        match self.entries.iter_mut().find(|e| e.name == name) {
            Some(e) => e.bytes += bytes as u64,
            None => self.entries.push(Entry { name: name.to_string(), bytes: bytes as u64 }),
        }
        tensor
    }

    /// Bytes handed out.
    pub fn used(&self) -> usize {
        self.used
    }

    /// What the bytes are for, in the order first taken.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// All bytes handed out so far since `from` (an earlier `used()`), as one dense row of `dtype`.
    /// Padding between tensors is part of it; it is zero and stays zero.
    pub fn span(&self, from: usize, dtype: DType) -> Tensor {
        Tensor::new(self.base + from, dtype, 1, (self.used - from) / dtype.size())
    }
}
