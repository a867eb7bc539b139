//! What the emulated driver refuses and what it reports when work goes wrong. Each test runs alone in a process of its own,
//! as errors and environment are the whole process's.

#![allow(clippy::macro_metavars_in_unsafe)] // of cu!, whose arguments are plain values

mod common;

use common::*;
use flanrt_emulator::Mode;
use std::ptr::null_mut;

alone!(memory_runs_out, [("EMU_MEM", "100000")], {
    let gpu = Gpu::new();
    let mut p = 0;
    let x = gpu.alloc(60_000);
    assert_eq!(cu!(cuMemAlloc_v2(&mut p, 50_000)), Err(CUDA_ERROR_OUT_OF_MEMORY));
    said("50000 bytes wanted, 40000 of 100000 free");
    let (mut free, mut total) = (0, 0);
    cu!(cuMemGetInfo_v2(&mut free, &mut total)).unwrap();
    assert_eq!((free, total), (40_000, 100_000));
    cu!(cuMemFree_v2(x)).unwrap();
    gpu.alloc(100_000);
});

alone!(frees_that_are_queued_make_room, [("EMU_MEM", "100000")], {
    let gpu = Gpu::new();
    let (stream, mut x, mut y) = (gpu.stream(), 0, 0);
    cu!(cuMemAllocAsync(&mut x, 80_000, stream)).unwrap();
    cu!(cuMemFreeAsync(x, stream)).unwrap();
    cu!(cuMemAllocAsync(&mut y, 80_000, stream)).unwrap();
});

alone!(kernels_for_newer_devices_are_not_found, [("EMU_CC", "8.0")], {
    let gpu = Gpu::new();
    assert_eq!(gpu.context.compute_capability().unwrap(), (8, 0));
    assert_eq!(gpu.function("hopper_u32"), Err(CUDA_ERROR_NO_BINARY_FOR_GPU));
    assert_eq!(gpu.function("no_such_kernel"), Err(CUDA_ERROR_NOT_FOUND));
    said("no kernel named no_such_kernel");
    let function = gpu.function("reverse_u32").unwrap();
    let attribute =
        cudarc::driver::sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    assert_eq!(cu!(cuFuncSetAttribute(function, attribute, 166_913)), Err(CUDA_ERROR_INVALID_VALUE));
    cu!(cuFuncSetAttribute(function, attribute, 166_912)).unwrap();
});

alone!(hopper_kernels_run_on_hopper_only, [("EMU_CC", "10.0")], {
    assert_eq!(Gpu::new().function("hopper_u32"), Err(CUDA_ERROR_NO_BINARY_FOR_GPU));
});

alone!(eager_streams_run_at_once, [("EMU_EAGER", "1")], {
    let gpu = Gpu::new();
    let (stream, x, host) = (gpu.stream(), gpu.upload(&[1.0]), Pinned::new(1, 0.0));
    cu!(cuMemcpyDtoHAsync_v2(host.pointer(), x, 4, stream)).unwrap();
    assert_eq!(host.values(), [1.0]);
});

alone!(launches_are_checked_at_the_call, [], {
    let gpu = Gpu::new();
    let (stream, y) = (gpu.stream(), gpu.alloc(4));
    let pageable = [0f32; 4];
    let args = [Arg::Ptr(y), Arg::F32(0.0), Arg::I32(1)];
    assert_eq!(gpu.launch("fill_f32", 0, 32, stream, &args), Err(CUDA_ERROR_INVALID_VALUE));
    said("grid 0 x 1 x 1");
    assert_eq!(gpu.launch("fill_f32", 1, 1025, stream, &args), Err(CUDA_ERROR_INVALID_VALUE));
    said("block 1025 x 1 x 1");
    assert_eq!(gpu.launch("fill_f32", 1, 257, stream, &args), Err(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES));
    said("its launch bounds say 256");
    let host = [Arg::Ptr(pageable.as_ptr() as u64), args[1], args[2]];
    assert_eq!(gpu.launch("fill_f32", 1, 32, stream, &host), Err(CUDA_ERROR_INVALID_VALUE));
    said("argument 0 (*mut f32) is not a live device address");
    let odd = [Arg::Ptr(y + 2), args[1], args[2]];
    assert_eq!(gpu.launch("fill_f32", 1, 32, stream, &odd), Err(CUDA_ERROR_INVALID_VALUE));
    said("not aligned to its elements");
    let mut values = [null_mut(); 3];
    let function = gpu.function("fill_f32").unwrap();
    let launch = cu!(cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, stream, values.as_mut_ptr(), null_mut()));
    assert_eq!(launch, Err(CUDA_ERROR_INVALID_VALUE));
    said("argument 0 (*mut f32) has no value");
    // None of these broke the device.
    gpu.fill(y, 1.0, 1, stream);
    assert_eq!(gpu.download(y, 1, stream).unwrap(), [1.0]);
});

alone!(copies_are_checked_at_the_call, [], {
    let gpu = Gpu::new();
    let (x, mut host) = (gpu.alloc(64), [0u8; 128]);
    let (to, from) = (host.as_mut_ptr().cast(), host.as_ptr().cast());
    assert_eq!(cu!(cuMemcpyDtoH_v2(to, x, 65)), Err(CUDA_ERROR_INVALID_VALUE));
    said("source of 65 bytes is not inside a live allocation");
    assert_eq!(cu!(cuMemcpyHtoD_v2(x - 1, from, 4)), Err(CUDA_ERROR_INVALID_VALUE));
    assert_eq!(cu!(cuMemcpyHtoD_v2(x, x as *const _, 4)), Err(CUDA_ERROR_INVALID_VALUE));
    said("given as host memory but is a device address");
    assert_eq!(cu!(cuMemsetD32_v2(x + 2, 0, 1)), Err(CUDA_ERROR_INVALID_VALUE));
    assert_eq!(cu!(cuMemFree_v2(x + 256)), Err(CUDA_ERROR_INVALID_VALUE));
    said("not the start of a live allocation");
    cu!(cuMemFree_v2(x)).unwrap();
    assert_eq!(cu!(cuMemcpyDtoH_v2(to, x, 64)), Err(CUDA_ERROR_INVALID_VALUE));
    assert_eq!(error_name(CUDA_ERROR_INVALID_VALUE), "CUDA_ERROR_INVALID_VALUE");
});

alone!(writes_beside_an_allocation_are_found, [], {
    for index in [-1i64, 16] {
        let gpu = Gpu::new();
        let (stream, y) = (gpu.stream(), gpu.alloc(64));
        gpu.launch("write_u32", 1, 32, stream, &[Arg::Ptr(y), Arg::I64(index)]).unwrap();
        assert_eq!(cu!(cuStreamSynchronize(stream)), Err(CUDA_ERROR_ILLEGAL_ADDRESS));
        said("write_u32 wrote");
        said("an allocation of 64 bytes");
        // The error stays until the context is gone, which the next round of this loop begins with.
        assert_eq!(cu!(cuStreamSynchronize(stream)), Err(CUDA_ERROR_ILLEGAL_ADDRESS));
        assert_eq!(gpu.launch("write_u32", 1, 32, stream, &[]), Err(CUDA_ERROR_ILLEGAL_ADDRESS));
    }
});

alone!(writes_far_from_an_allocation_are_found, [], {
    let gpu = Gpu::new();
    let (stream, y) = (gpu.stream(), gpu.alloc(64));
    gpu.launch("write_u32", 1, 32, stream, &[Arg::Ptr(y), Arg::I64(1 << 20)]).unwrap();
    assert_eq!(cu!(cuStreamSynchronize(stream)), Err(CUDA_ERROR_ILLEGAL_ADDRESS));
    said("illegal or misaligned address");
    said("was freed or never allocated");
});

alone!(use_after_free_is_found, [], {
    let gpu = Gpu::new();
    let (a, b, mut x) = (gpu.stream(), gpu.stream(), 0);
    cu!(cuMemAllocAsync(&mut x, 64, a)).unwrap();
    gpu.fill(x, 1.0, 16, a);
    cu!(cuMemFreeAsync(x, b)).unwrap();
    cu!(cuStreamSynchronize(b)).unwrap();
    assert_eq!(cu!(cuStreamSynchronize(a)), Err(CUDA_ERROR_ILLEGAL_ADDRESS));
    said("was freed or never allocated");
});

alone!(calls_that_a_capture_forbids_spoil_it, [], {
    let gpu = Gpu::new();
    let (stream, x) = (gpu.stream(), gpu.upload(&[1.0]));
    let mut value = 0f32;
    let mode = cudarc::driver::sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    let spoil = |forbidden: &mut dyn FnMut() -> Result<(), CUresult>, error, text: &str| {
        cu!(cuStreamBeginCapture_v2(stream, mode)).unwrap();
        gpu.add(x, x, 1.0, 1, stream);
        assert_eq!(forbidden(), Err(error));
        said(text);
        let mut graph = null_mut();
        assert_eq!(cu!(cuStreamEndCapture(stream, &mut graph)), Err(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED));
    };
    let (mut p, unsupported) = (0, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    spoil(&mut || cu!(cuMemAlloc_v2(&mut p, 4)), unsupported, "while a stream captures");
    spoil(&mut || cu!(cuStreamSynchronize(stream)), unsupported, "the stream captures");
    spoil(&mut || cu!(cuCtxSynchronize()), unsupported, "while a stream captures");
    let pageable = (&raw mut value).cast();
    spoil(&mut || cu!(cuMemcpyDtoHAsync_v2(pageable, x, 4, stream)), unsupported, "pinned host memory");
    let event = gpu.event();
    cu!(cuEventRecord(event, gpu.stream())).unwrap();
    let isolation = CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
    spoil(&mut || cu!(cuStreamWaitEvent(stream, event, 0)), isolation, "outside of that capture");
    assert_eq!(gpu.download(x, 1, stream).unwrap(), [1.0], "none of the captures ran");
});

alone!(handles_and_contexts_are_checked, [], {
    let gpu = Gpu::new();
    assert_eq!(cu!(cuStreamSynchronize(0x1234 as *mut _)), Err(CUDA_ERROR_INVALID_HANDLE));
    let event = gpu.event();
    cu!(cuEventDestroy_v2(event)).unwrap();
    assert_eq!(cu!(cuEventSynchronize(event)), Err(CUDA_ERROR_INVALID_HANDLE));
    let mut module = null_mut();
    let image = cu!(cuModuleLoadData(&mut module, c"not an image".as_ptr().cast()));
    assert_eq!(image, Err(CUDA_ERROR_INVALID_IMAGE));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut p = 0;
            assert_eq!(cu!(cuMemAlloc_v2(&mut p, 4)), Err(CUDA_ERROR_INVALID_CONTEXT));
            said("no context is current in this thread");
        });
    });
});

alone!(the_checker_names_what_a_kernel_does_wrong, [], {
    let gpu = Gpu::with(Mode::Checked);
    let (stream, y) = (gpu.stream(), gpu.alloc(16));
    gpu.fill(y, 1.0, 4, stream);
    assert_eq!(gpu.download(y, 4, stream).unwrap(), [1.0; 4]);
    // One past the end, where the plain emulator sees a write but no read.
    gpu.add(y, y, 1.0, 5, stream);
    assert_eq!(cu!(cuStreamSynchronize(stream)), Err(CUDA_ERROR_LAUNCH_FAILED));
    said("add_f32");
    said("out-of-bounds read");
    said("seam.cu");
});

alone!(the_checker_follows_uninitialised_bytes_through_copies, [], {
    let gpu = Gpu::with(Mode::Checked);
    let (stream, x, y) = (gpu.stream(), gpu.alloc(64), gpu.alloc(64));
    gpu.fill(x, 1.0, 15, stream);
    cu!(cuMemcpyDtoDAsync_v2(y, x, 64, stream)).unwrap();
    gpu.download(y, 15, stream).unwrap();
    assert_eq!(gpu.download(y, 16, stream), Err(CUDA_ERROR_LAUNCH_FAILED));
    said("copy to the host");
});
