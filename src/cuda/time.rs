//! Time as the GPU counts it: how long work takes there, not how long the host takes to ask for it.

use super::driver::{Event, check};
use super::{Cuda, Gpu};
use crate::error::Result;
use cudarc::driver::sys;
use std::time::Duration;

impl Cuda {
    /// From the start to the end of what `work` asks for, on the GPU; waits for both.
    pub fn time(&self, work: &mut dyn FnMut()) -> Result<Duration> {
        let stream = self.transfers();
        let [start, end] = [Event::new(true)?, Event::new(true)?];
        start.record(stream)?;
        work();
        end.record(stream)?;
        self.core.waited(end.wait());
        Ok(Duration::from_secs_f32(start.milliseconds(&end)? / 1e3))
    }

    /// The GPU.
    pub fn gpu(&self) -> &Gpu {
        &self.core.gpu
    }

    /// Bytes of its last cache: work on fewer finds its operands there if it has just run on them.
    pub fn cache_bytes(&self) -> Result<usize> {
        let (mut device, mut bytes) = (0, 0);
        let which = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE;
        // SAFETY: the driver is started; place for one handle and one number.
        unsafe {
            check(sys::cuDeviceGet(&mut device, self.core.gpu.index as i32), "opening the GPU")?;
            check(
                sys::cuDeviceGetAttribute(&mut bytes, which, device),
                "reading the size of the GPU's cache",
            )?;
        }
        Ok(bytes as usize)
    }
}
