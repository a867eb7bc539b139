//! CPU memory: zeroed pages of their own.

use super::Cpu;
use super::rows::{slice, slice_mut};
use super::simd::{Level, level};
use crate::error::Result;
use crate::ops::memory::{Block, Fetch, Memory, too_large};
use crate::tensor::Tensor;
use memmap2::MmapMut;

/// Bytes that this machine can give without swapping, where the system says so.
fn available() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let machine = line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024;
    // A container may have less than its machine.
    let group =
        |file| std::fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?.trim().parse::<u64>().ok();
    let limit = group("memory.max").zip(group("memory.current")).map(|(max, used)| max.saturating_sub(used));
    Some(limit.map_or(machine, |limit| limit.min(machine)))
}

impl Cpu {
    /// Asks the system to back all pages now, by huge ones where it has them: memory that is not there is missed here and not
    /// in the middle of a run, no step pays for first touches, and fewer addresses are looked up. A system that cannot do it
    /// backs pages when they are touched.
    fn prefault(&self, memory: &MmapMut) {
        #[cfg(target_os = "linux")]
        {
            use memmap2::Advice::{HugePage, PopulateWrite};
            let _ = memory.advise(HugePage);
            // Clearing pages is work for all threads.
            self.blocks(memory.len(), 32 << 20, |part| {
                let _ = memory.advise_range(PopulateWrite, part.start, part.len());
            });
        }
        #[cfg(not(target_os = "linux"))]
        let _ = memory;
    }
}

impl Memory for Cpu {
    fn name(&self) -> String {
        let vectors = match level() {
            Level::Avx512 => "avx512",
            Level::Avx2 => "avx2",
            Level::Base => std::env::consts::ARCH,
        };
        format!("cpu x{} ({vectors})", self.threads())
    }

    fn free(&self) -> Option<u64> {
        available()
    }

    fn alloc(&self, bytes: usize) -> Result<Block> {
        let free = available();
        let too_large = || too_large(bytes as u64, free);
        if free.is_some_and(|free| bytes as u64 > free) {
            return Err(too_large());
        }
        let mut memory = MmapMut::map_anon(bytes.max(1)).map_err(|_| too_large())?;
        self.prefault(&memory);
        // The pages go back with the block.
        Ok(Block::new(memory.as_mut_ptr() as usize, move |_| drop(memory)))
    }

    fn write(&self, dst: Tensor, src: &[u8]) {
        assert!(dst.is_dense() && dst.bytes() == src.len(), "{} bytes into {dst:?}", src.len());
        // SAFETY: dense and of this size by the assertion; nobody uses the tensor during a transfer.
        unsafe { std::ptr::copy_nonoverlapping(src.as_ptr(), dst.addr() as *mut u8, src.len()) };
    }

    fn read(&self, dst: &mut [u8], src: Tensor) {
        assert!(src.is_dense() && src.bytes() == dst.len(), "{} bytes from {src:?}", dst.len());
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy_nonoverlapping(src.addr() as *const u8, dst.as_mut_ptr(), dst.len()) };
    }

    fn fetch(&self, src: Tensor) -> Fetch {
        let mut bytes = vec![0; src.bytes()];
        self.read(&mut bytes, src);
        Fetch::new(move || bytes)
    }

    fn zero(&self, x: Tensor) {
        let (rows, cols) = if x.is_dense() { (1, x.len()) } else { (x.rows(), x.cols()) };
        let flat = if x.is_dense() { x.reshape(1, x.len()) } else { x };
        self.blocks(cols, 1 << 16, |c| {
            for r in 0..rows {
                // SAFETY: tasks cover disjoint columns; a zero is all zero bytes in every dtype.
                unsafe {
                    match x.dtype().size() {
                        2 => slice_mut::<u16>(flat, r, c.start, c.len()).fill(0),
                        _ => slice_mut::<u32>(flat, r, c.start, c.len()).fill(0),
                    }
                }
            }
        });
        debug_assert!(
            // SAFETY: as above.
            x.is_empty() || unsafe { x.dtype().size() == 2 || slice::<u32>(flat, 0, 0, 1)[0] == 0 }
        );
    }
}
