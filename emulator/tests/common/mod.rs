//! What the tests of the emulated driver share: a device for one test at a time, and calls of the driver as it is, without
//! the order that cudarc's own types add.

#![allow(dead_code, unreachable_pub)] // each test file is a crate that uses a part

use cudarc::driver::{CudaContext, sys};
use flanrt_emulator::Mode;
use std::ffi::{CStr, CString, c_void};
use std::process::Command;
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, MutexGuard};

#[allow(unused_imports)] // as above
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

    /// A launch in the default stream with any parameters: `values` point at them. Waits for it.
    pub fn launch_raw(
        &self,
        name: &str,
        grid: [u32; 2],
        threads: u32,
        shared: u32,
        values: &mut [*mut c_void],
    ) -> Result<(), CUresult> {
        let function = self.function(name)?;
        let limit = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        cu!(cuFuncSetAttribute(function, limit, shared as i32))?;
        cu!(cuLaunchKernel(
            function,
            grid[0],
            grid[1],
            1,
            threads,
            1,
            1,
            shared,
            null_mut(),
            values.as_mut_ptr(),
            null_mut()
        ))?;
        cu!(cuCtxSynchronize())
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

pub use cudarc::driver::sys::{CUtensorMap, CUtensorMapDataType as Element, CUtensorMapSwizzle as Swizzle};

/// The map of a dense tensor, innermost dimension first.
pub fn tensor_map(
    address: u64,
    element: Element,
    dims: &[u64],
    tile: &[u32],
    swizzle: Swizzle,
) -> CUtensorMap {
    let size = match element {
        Element::CU_TENSOR_MAP_DATA_TYPE_FLOAT32 => 4,
        _ => 2,
    };
    let strides: Vec<u64> = (1..dims.len()).map(|i| size * dims[..i].iter().product::<u64>()).collect();
    // SAFETY: a tensor map is plain bytes.
    let mut map: CUtensorMap = unsafe { std::mem::zeroed() };
    cu!(cuTensorMapEncodeTiled(
        &mut map,
        element,
        dims.len() as u32,
        address as *mut c_void,
        dims.as_ptr(),
        strides.as_ptr(),
        tile.as_ptr(),
        [1; 5].as_ptr(),
        sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
        swizzle,
        sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
        sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE
    ))
    .unwrap();
    map
}

/// The address of a kernel argument.
pub fn pointer<T>(value: &T) -> *mut c_void {
    std::ptr::from_ref(value).cast_mut().cast()
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

/// Runs the test again, alone and with environment variables; true in there.
pub fn alone(test: &str, environment: &[(&str, &str)]) -> bool {
    const INSIDE: &str = "FLANRT_EMULATOR_TEST_ALONE";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test]).env(INSIDE, "1").envs(environment.iter().copied());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{test} failed in its own process ({}):\n{text}", output.status);
    false
}

/// The same as `#[test] fn name() { body }`, in its own process.
#[macro_export]
macro_rules! alone {
    ($name:ident, $environment:expr, $body:block) => {
        #[test]
        fn $name() {
            if $crate::common::alone(stringify!($name), &$environment) {
                $body
            }
        }
    };
}
