//! Copies between host and GPU, through page-locked memory that is allocated once.
//!
//! The GPU reads and writes page-locked memory by itself: a copy is enqueued like a kernel and the host goes on. Bytes to
//! the GPU are put into a slot of the staging memory first, so the caller's own are free at once.

use super::driver::{Event, Pinned, Stream, check};
use crate::error::Result;
use cudarc::driver::sys;
use std::sync::Mutex;

/// Bytes of a slot: a transfer this long runs at full speed, and the host fills the next one meanwhile.
const SLOT: usize = 16 << 20;

/// The same where batches go through, a few numbers a token.
const AHEAD_SLOT: usize = 4 << 20;

/// Page-locked memory with the event after the last copy that uses it.
struct Slot {
    memory: Pinned,
    done: Event,
}

impl Slot {
    fn new(bytes: usize) -> Result<Self> {
        Ok(Self { memory: Pinned::new(bytes)?, done: Event::new(false)? })
    }
}

/// Two slots in turn: copies of one run while the other is filled or emptied.
pub(super) struct Staging {
    slots: [Slot; 2],
    /// The slot in use, and how many of its bytes are.
    current: usize,
    used: usize,
}

/// Enqueues a copy to the GPU.
///
/// # Safety
/// `src` is `bytes` of page-locked memory that nobody writes until the copy is done; `dst` is device memory.
unsafe fn up(stream: &Stream, dst: u64, src: *const u8, bytes: usize) -> Result<()> {
    // SAFETY: by the caller's promise.
    let code = unsafe { sys::cuMemcpyHtoDAsync_v2(dst, src.cast(), bytes, stream.raw()) };
    check(code, "copying to the GPU")
}

/// Enqueues a copy from the GPU.
///
/// # Safety
/// `dst` is `bytes` of page-locked memory that nobody uses until the copy is done; `src` is device memory.
unsafe fn down(stream: &Stream, dst: *mut u8, src: u64, bytes: usize) -> Result<()> {
    // SAFETY: by the caller's promise.
    let code = unsafe { sys::cuMemcpyDtoHAsync_v2(dst.cast(), src, bytes, stream.raw()) };
    check(code, "copying from the GPU")
}

impl Staging {
    pub(super) fn new() -> Result<Self> {
        Self::of(SLOT)
    }

    fn of(slot: usize) -> Result<Self> {
        Ok(Self { slots: [Slot::new(slot)?, Slot::new(slot)?], current: 0, used: 0 })
    }

    /// Bytes of a slot.
    fn slot(&self) -> usize {
        self.slots[0].memory.len()
    }

    /// Leaves the slot in use to its copies and takes the other, once its own are done.
    fn turn(&mut self, stream: &Stream) -> Result<()> {
        self.slots[self.current].done.record(stream)?;
        self.current ^= 1;
        self.used = 0;
        self.slots[self.current].done.wait()
    }

    /// Enqueues `dst = src`; `src` is free on return.
    pub(super) fn write(&mut self, stream: &Stream, dst: u64, src: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < src.len() {
            if self.used == self.slot() {
                self.turn(stream)?;
            }
            let n = (src.len() - done).min(self.slot() - self.used);
            let memory = &mut self.slots[self.current].memory;
            memory.bytes_mut()[self.used..][..n].copy_from_slice(&src[done..][..n]);
            // SAFETY: these bytes of the slot are not handed out again before `turn` has waited for the copy.
            unsafe { up(stream, dst + done as u64, memory.addr().add(self.used), n)? };
            done += n;
            self.used = (self.used + n.next_multiple_of(64)).min(self.slot());
        }
        Ok(())
    }

    /// `dst = src`, after all work before it.
    pub(super) fn read(&mut self, stream: &Stream, dst: &mut [u8], src: u64) -> Result<()> {
        let mut before: Option<(usize, &mut [u8])> = None;
        let empty = |slots: &[Slot; 2], (slot, part): (usize, &mut [u8])| {
            slots[slot].done.wait()?;
            part.copy_from_slice(&slots[slot].memory.bytes()[..part.len()]);
            Ok(())
        };
        let whole = self.slot();
        for (i, part) in dst.chunks_mut(whole).enumerate() {
            self.turn(stream)?;
            let slot = &self.slots[self.current];
            // SAFETY: `turn` has waited for the slot, and it is read after its event only.
            unsafe { down(stream, slot.memory.addr(), src + (i * whole) as u64, part.len())? };
            slot.done.record(stream)?;
            if let Some(before) = before.replace((self.current, part)) {
                empty(&self.slots, before)?;
            }
        }
        before.map_or(Ok(()), |last| empty(&self.slots, last))
    }
}

/// Writes that run beside the work that does not touch their destination: the next batch travels while this one is
/// computed.
pub(super) struct Ahead {
    stream: Stream,
    staging: Staging,
    /// Work before this point may still touch a destination.
    boundary: Event,
    marked: bool,
    arrived: Event,
}

impl Ahead {
    pub(super) fn new() -> Result<Self> {
        let [boundary, arrived] = [Event::new(false)?, Event::new(false)?];
        Ok(Self {
            stream: Stream::new()?,
            staging: Staging::of(AHEAD_SLOT)?,
            boundary,
            marked: false,
            arrived,
        })
    }

    /// Moves the boundary to the end of all work so far.
    pub(super) fn mark(&mut self, work: &Stream) -> Result<()> {
        self.marked = true;
        self.boundary.record(work)
    }

    /// The next write waits for all work before it: new memory is still being cleared.
    pub(super) fn unmark(&mut self) {
        self.marked = false;
    }

    /// Enqueues `dst = src` after the work before the boundary, and before what comes next.
    pub(super) fn write(&mut self, work: &Stream, dst: u64, src: &[u8]) -> Result<()> {
        if !self.marked {
            self.mark(work)?;
        }
        self.stream.after(&self.boundary)?;
        self.staging.write(&self.stream, dst, src)?;
        self.arrived.record(&self.stream)?;
        work.after(&self.arrived)
    }
}

/// Page-locked buffers for asynchronous reads, kept for the next ones: locking memory takes longer than a small copy.
pub(super) struct Pool(Mutex<Vec<Slot>>);

/// A read under way.
pub(super) struct Download {
    slot: Slot,
    bytes: usize,
}

impl Pool {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// The smallest kept buffer that holds so many bytes, or a new one.
    fn take(&self, bytes: usize) -> Result<Slot> {
        let mut kept = self.0.lock().unwrap();
        let fits = (0..kept.len()).filter(|&i| kept[i].memory.len() >= bytes);
        match fits.min_by_key(|&i| kept[i].memory.len()) {
            Some(i) => Ok(kept.swap_remove(i)),
            None => Slot::new(bytes.next_power_of_two().max(4096)),
        }
    }

    /// Starts reading `bytes` at `src` after all work before it.
    pub(super) fn start(&self, stream: &Stream, src: u64, bytes: usize) -> Result<Download> {
        let slot = self.take(bytes)?;
        // A read that nobody waited for may still be writing to its buffer.
        slot.done.wait()?;
        // SAFETY: nothing uses the buffer, and it is read after its event only.
        unsafe { down(stream, slot.memory.addr(), src, bytes)? };
        slot.done.record(stream)?;
        Ok(Download { slot, bytes })
    }

    /// Waits for a read.
    pub(super) fn finish(&self, read: &Download) -> Result<Vec<u8>> {
        read.slot.done.wait()?;
        Ok(read.slot.memory.bytes()[..read.bytes].to_vec())
    }

    /// Takes the buffer of a read back, finished or not.
    pub(super) fn put_back(&self, read: Download) {
        self.0.lock().unwrap().push(read.slot);
    }
}
