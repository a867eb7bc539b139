//! A GPU, or what stands in for one, driven directly: load images, launch a case, read what it wrote.

use crate::cases::Case;
use crate::dump::Dump;
use cudarc::driver::sys;
use flanrt::cuda::Gpu;
use std::ffi::{CString, c_void};
use std::ptr::null_mut;

/// What outputs hold before a case runs: a word that was not written shows.
const UNWRITTEN: u8 = 0xff;

/// The first GPU with the conformance kernels loaded.
pub(crate) struct Machine {
    gpu: Gpu,
    modules: Vec<sys::CUmodule>,
}

/// Panics on an error of the driver: there is nothing to go on with.
fn check(code: sys::CUresult, doing: &str) {
    assert!(code == sys::CUresult::CUDA_SUCCESS, "{doing}: {code:?}");
}

/// Device memory that is freed when dropped.
struct Buffer(u64);

impl Buffer {
    fn new(words: usize) -> Self {
        let mut addr = 0;
        // SAFETY: place for one address; so many bytes are ours afterwards.
        unsafe {
            check(sys::cuMemAlloc_v2(&mut addr, 4 * words.max(1)), "allocating");
            check(sys::cuMemsetD8_v2(addr, UNWRITTEN, 4 * words.max(1)), "filling");
        }
        Self(addr)
    }

    fn of(words: &[u32]) -> Self {
        let buffer = Self::new(words.len());
        // SAFETY: the buffer has this many words.
        check(
            unsafe { sys::cuMemcpyHtoD_v2(buffer.0, words.as_ptr().cast(), 4 * words.len()) },
            "copying in",
        );
        buffer
    }

    fn read(&self, words: usize) -> Vec<u32> {
        let mut out = vec![0u32; words];
        // SAFETY: both sides have this many words.
        check(unsafe { sys::cuMemcpyDtoH_v2(out.as_mut_ptr().cast(), self.0, 4 * words) }, "copying out");
        out
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated once, in `new`.
        unsafe { sys::cuMemFree_v2(self.0) };
    }
}

impl Machine {
    /// Opens the first GPU. `images` as `SOURCES` names them; those that this GPU cannot run are left out.
    pub(crate) fn open(images: &[Vec<u8>]) -> flanrt::error::Result<Self> {
        let gpu = flanrt::cuda::gpus()?.swap_remove(0);
        let mut modules = Vec::new();
        // SAFETY: the driver is started, by `gpus`; images know their length.
        unsafe {
            let (mut device, mut context) = (0, null_mut());
            check(sys::cuDeviceGet(&mut device, gpu.index as i32), "opening the GPU");
            check(sys::cuDevicePrimaryCtxRetain(&mut context, device), "starting on the GPU");
            check(sys::cuCtxSetCurrent(context), "starting on the GPU");
            for image in images {
                let mut module = null_mut();
                match sys::cuModuleLoadData(&mut module, image.as_ptr().cast()) {
                    sys::CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU => {}
                    code => {
                        check(code, "loading the kernels");
                        modules.push(module);
                    }
                }
            }
        }
        Ok(Self { gpu, modules })
    }

    /// The maker's name for it.
    pub(crate) fn name(&self) -> &str {
        &self.gpu.name
    }

    /// The name for use in file names.
    pub(crate) fn slug(&self) -> String {
        let parts = self.gpu.name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|p| !p.is_empty());
        parts.collect::<Vec<_>>().join("-").to_lowercase()
    }

    /// Runs all cases that this GPU has kernels for.
    pub(crate) fn run(&self, cases: &[Case]) -> Dump {
        let mut dump = Dump::default();
        for case in cases.iter().filter(|c| c.capability <= self.gpu.capability) {
            if case.exact_capability && case.capability != self.gpu.capability {
                continue;
            }
            dump.put(&case.name, self.launch(case));
        }
        dump
    }

    fn function(&self, name: &str) -> sys::CUfunction {
        let symbol = CString::new(name).expect("no zero in a name");
        let mut function = null_mut();
        let found = self.modules.iter().any(|&module| {
            // SAFETY: a loaded module, and a string with its final zero.
            let code = unsafe { sys::cuModuleGetFunction(&mut function, module, symbol.as_ptr()) };
            code == sys::CUresult::CUDA_SUCCESS
        });
        assert!(found, "kernel {name} is in none of the images");
        function
    }

    fn launch(&self, case: &Case) -> Vec<u32> {
        let (out, input) = (Buffer::new(case.output), Buffer::of(&case.input));
        if let Some(start) = &case.start {
            // SAFETY: the output has `output` words, and `start` not more.
            check(
                unsafe { sys::cuMemcpyHtoD_v2(out.0, start.as_ptr().cast(), 4 * start.len()) },
                "copying in",
            );
        }
        let function = self.function(case.kernel);
        let maps: Vec<_> = case
            .maps
            .iter()
            .map(|map| map.encode(if map.of_output { out.0 } else { input.0 } + crate::hopper::HEAD_BYTES))
            .collect();
        let mut places: Vec<*mut c_void> =
            [&out.0, &input.0].map(|addr| std::ptr::from_ref(addr).cast_mut().cast()).to_vec();
        places.extend(maps.iter().map(|map| std::ptr::from_ref(map).cast_mut().cast::<c_void>()));
        let limit = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let [x, threads] = [case.blocks, case.threads];
        // SAFETY: the kernel takes two addresses and the maps; all live until it has ended.
        unsafe {
            if case.shared > 0 {
                check(
                    sys::cuFuncSetAttribute(function, limit, case.shared as i32),
                    "asking for shared memory",
                );
            }
            let stream = null_mut();
            let code = sys::cuLaunchKernel(
                function,
                x,
                1,
                1,
                threads,
                1,
                1,
                case.shared,
                stream,
                places.as_mut_ptr(),
                null_mut(),
            );
            check(code, &case.name);
            check(sys::cuCtxSynchronize(), &case.name);
        }
        out.read(case.output)
    }
}
