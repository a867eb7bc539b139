//! What the tests of the emulated driver share: a device for one test at a time, and calls of the driver as it is, without
//! the order that cudarc's own types add.

#![allow(dead_code, unreachable_pub)] // each test file is a crate that uses a part

use cudarc::driver::{CudaContext, sys};
use flanrt_emulator::Mode;
use std::ffi::{CStr, CString, c_void};
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, MutexGuard};

pub use cudarc::driver::sys::CUresult::{self, *};

/// Calls a function of the driver: `cu!(cuMemAlloc_v2(&mut p, 64))`, a `Result<(), CUresult>`.
#[macro_export]
macro_rules! cu {
    ($function:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: the tests pass live pointers of the right types, or what the driver is to refuse.
        match unsafe { cudarc::driver::sys::$function($($argument),*) } {
            cudarc::driver::sys::CUresult::CUDA_SUCCESS => Ok(()),
            error => Err(error),
        }
    };
}

/// The emulated device with the test kernels; its memory, counters and errors are this test's alone.
pub struct Gpu {
    pub context: Arc<CudaContext>,
    module: sys::CUmodule,
    _alone: MutexGuard<'static, ()>,
}

/// A kernel argument.
#[derive(Clone, Copy)]
pub enum Arg {
    Ptr(u64),
    I32(i32),
    I64(i64),
    F32(f32),
}

impl Gpu {
    pub fn new() -> Gpu {
        Gpu::with(Mode::Plain)
    }

    pub fn with(mode: Mode) -> Gpu {
        static ONE: Mutex<()> = Mutex::new(());
        let alone = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        flanrt_emulator::install_test_kernels(mode);
        flanrt_emulator::set_options(Default::default());
        let context = CudaContext::new(0).unwrap();
        let mut module = null_mut();
        cu!(cuModuleLoadData(&mut module, c"FLANRT-EMU".as_ptr().cast())).unwrap();
        Gpu { context, module, _alone: alone }
    }

    /// A stream that waits for no other.
    pub fn stream(&self) -> sys::CUstream {
        let mut stream = null_mut();
        cu!(cuStreamCreate(&mut stream, 1)).unwrap();
        stream
    }

    pub fn event(&self) -> sys::CUevent {
        let mut event = null_mut();
        cu!(cuEventCreate(&mut event, 0)).unwrap();
        event
    }

    pub fn alloc(&self, bytes: usize) -> u64 {
        let mut address = 0;
        cu!(cuMemAlloc_v2(&mut address, bytes)).unwrap();
        address
    }

    pub fn upload(&self, values: &[f32]) -> u64 {
        let address = self.alloc(4 * values.len());
        cu!(cuMemcpyHtoD_v2(address, values.as_ptr().cast(), 4 * values.len())).unwrap();
        address
    }

    /// Waits for the stream.
    pub fn download(&self, address: u64, n: usize, stream: sys::CUstream) -> Result<Vec<f32>, CUresult> {
        let mut values = vec![0f32; n];
        cu!(cuMemcpyDtoHAsync_v2(values.as_mut_ptr().cast(), address, 4 * n, stream))?;
        cu!(cuStreamSynchronize(stream))?;
        Ok(values)
    }

    pub fn function(&self, name: &str) -> Result<sys::CUfunction, CUresult> {
        let name = CString::new(name).unwrap();
        let mut function = null_mut();
        cu!(cuModuleGetFunction(&mut function, self.module, name.as_ptr()))?;
        Ok(function)
    }

    /// A launch on a grid of `blocks` by `threads`.
    pub fn launch(
        &self,
        name: &str,
        blocks: u32,
        threads: u32,
        stream: sys::CUstream,
        args: &[Arg],
    ) -> Result<(), CUresult> {
        let mut values: Vec<u64> = args
            .iter()
            .map(|arg| match *arg {
                Arg::Ptr(x) => x,
                Arg::I32(x) => x as u32 as u64,
                Arg::I64(x) => x as u64,
                Arg::F32(x) => x.to_bits() as u64,
            })
            .collect();
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|v| (v as *mut u64).cast()).collect();
        let function = self.function(name)?;
        cu!(cuLaunchKernel(
            function,
            blocks,
            1,
            1,
            threads,
            1,
            1,
            0,
            stream,
            pointers.as_mut_ptr(),
            null_mut()
        ))
    }

    /// `y[..n] = value` in a stream.
    pub fn fill(&self, y: u64, value: f32, n: usize, stream: sys::CUstream) {
        let blocks = n.div_ceil(256) as u32;
        self.launch("fill_f32", blocks, 256, stream, &[Arg::Ptr(y), Arg::F32(value), Arg::I32(n as i32)])
            .unwrap();
    }

    /// `y[..n] = x + value` in a stream.
    pub fn add(&self, y: u64, x: u64, value: f32, n: usize, stream: sys::CUstream) {
        let args = [Arg::Ptr(y), Arg::Ptr(x), Arg::F32(value), Arg::I32(n as i32)];
        self.launch("add_f32", n.div_ceil(256) as u32, 256, stream, &args).unwrap();
    }
}

/// Pinned host memory of f32.
pub struct Pinned(*mut f32, usize);

impl Pinned {
    pub fn new(n: usize, value: f32) -> Pinned {
        let mut p = null_mut();
        cu!(cuMemHostAlloc(&mut p, 4 * n, 0)).unwrap();
        let mut pinned = Pinned(p.cast(), n);
        pinned.values_mut().fill(value);
        pinned
    }

    pub fn pointer(&self) -> *mut c_void {
        self.0.cast()
    }

    pub fn values(&self) -> &[f32] {
        // SAFETY: `new` allocated and filled the memory; the driver writes it only inside its calls.
        unsafe { std::slice::from_raw_parts(self.0, self.1) }
    }

    pub fn values_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.0, self.1) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = cu!(cuMemFreeHost(self.0.cast()));
    }
}

/// The last error's text holds `part`.
#[track_caller]
pub fn said(part: &str) {
    let text = flanrt_emulator::last_error();
    assert!(text.contains(part), "the last error does not say {part:?} but {text:?}");
}

pub fn error_name(error: CUresult) -> String {
    let mut name = std::ptr::null();
    cu!(cuGetErrorName(error, &mut name)).unwrap();
    // SAFETY: the driver gives a C string.
    unsafe { CStr::from_ptr(name) }.to_str().unwrap().to_owned()
}
