//! The emulated driver as a program sees it: launches through cudarc, copies, lazy streams and events, graphs, queries.

#![allow(clippy::macro_metavars_in_unsafe)] // of cu!, whose arguments are plain values

mod common;

use common::*;
use cudarc::driver::{LaunchConfig, PushKernelArg, sys};
use cudarc::nvrtc::Ptx;
use flanrt_emulator::Options;
use std::ffi::CStr;
use std::ptr::{null, null_mut};

#[test]
fn launches_through_cudarc() {
    let gpu = Gpu::new();
    let stream = gpu.context.new_stream().unwrap();
    let module = gpu.context.load_module(Ptx::from_binary(b"FLANRT-EMU\0".to_vec())).unwrap();
    let kernel = module.load_function("row_sum_f32").unwrap();
    let (rows, cols) = (5usize, 129usize);
    let x: Vec<f32> = (0..rows * cols).map(|i| i as f32).collect();
    let dx = stream.clone_htod(&x).unwrap();
    let mut dy = stream.alloc_zeros::<f32>(rows).unwrap();
    let (stride, n, before) = (cols as i64, cols as i32, flanrt_emulator::launches("row_sum_f32"));
    let mut launch = stream.launch_builder(&kernel);
    launch.arg(&mut dy).arg(&dx).arg(&stride).arg(&n);
    let config = LaunchConfig { grid_dim: (rows as u32, 1, 1), block_dim: (64, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the arguments are the kernel's, the buffers have its sizes.
    unsafe { launch.launch(config) }.unwrap();
    let want: Vec<f32> = x.chunks(cols).map(|row| row.iter().sum()).collect();
    assert_eq!(stream.clone_dtoh(&dy).unwrap(), want);
    assert_eq!(flanrt_emulator::launches("row_sum_f32"), before + 1);
}

#[test]
fn describes_its_kernels() {
    let gpu = Gpu::new();
    let types = flanrt_emulator::param_types("row_sum_f32").unwrap();
    assert_eq!(types, ["*mut f32", "*const f32", "i64", "i32"]);
    assert_eq!(flanrt_emulator::param_types("no_such_kernel"), None);
    let kernels = flanrt_emulator::kernels();
    let hopper = kernels.iter().find(|kernel| kernel.name == "hopper_u32").unwrap();
    assert_eq!((hopper.capability, hopper.max_threads), (90, 32));

    let mut module = null_mut();
    cu!(cuModuleLoadData(&mut module, c".version 8.0\n.target sm_80".as_ptr().cast())).unwrap();
    let mut count = 0;
    cu!(cuModuleGetFunctionCount(&mut count, module)).unwrap();
    let mut functions = vec![null_mut(); count as usize];
    cu!(cuModuleEnumerateFunctions(functions.as_mut_ptr(), count, module)).unwrap();
    let names: Vec<_> = functions
        .iter()
        .map(|&function| {
            let mut name = null();
            cu!(cuFuncGetName(&mut name, function)).unwrap();
            // SAFETY: the driver gives a C string.
            unsafe { CStr::from_ptr(name) }.to_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(names, kernels.iter().map(|kernel| kernel.name.clone()).collect::<Vec<_>>());

    let function = gpu.function("row_sum_f32").unwrap();
    let (mut offset, mut size) = (0, 0);
    cu!(cuFuncGetParamInfo(function, 3, &mut offset, &mut size)).unwrap();
    assert_eq!((offset, size), (24, 4));
    assert_eq!(cu!(cuFuncGetParamInfo(function, 4, &mut offset, &mut size)), Err(CUDA_ERROR_INVALID_VALUE));
}

#[test]
fn shared_memory_above_48_kib_is_asked_for() {
    let gpu = Gpu::new();
    let (n, stream) = (20_000usize, gpu.stream());
    let y = gpu.alloc(4 * n);
    let function = gpu.function("reverse_u32").unwrap();
    let (mut address, mut count) = (y, n as i32);
    let mut values = [(&raw mut address).cast(), (&raw mut count).cast()];
    let mut launch = || {
        cu!(cuLaunchKernel(
            function,
            1,
            1,
            1,
            1024,
            1,
            1,
            4 * n as u32,
            stream,
            values.as_mut_ptr(),
            null_mut()
        ))
    };
    assert_eq!(launch(), Err(CUDA_ERROR_INVALID_VALUE));
    said("80000 bytes of dynamic shared memory; the function may have 49152");
    let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    assert_eq!(cu!(cuFuncSetAttribute(function, attribute, 232_449)), Err(CUDA_ERROR_INVALID_VALUE));
    said("this device has 232448");
    cu!(cuFuncSetAttribute(function, attribute, 80_000)).unwrap();
    launch().unwrap();
    let got = gpu.download(y, n, stream).unwrap();
    assert!(got.iter().enumerate().all(|(i, x)| x.to_bits() == i as u32));
}

#[test]
fn new_memory_is_poison_at_addresses_of_little_alignment() {
    let gpu = Gpu::new();
    let stream = gpu.stream();
    for n in [1usize, 64, 1000, 1024, 1 << 20] {
        let address = gpu.alloc(4 * n);
        assert_eq!(address % 256, 0);
        if n % 1024 == 0 {
            assert_ne!(address % 512, 0, "the real driver promises 256 bytes, nothing may rely on more");
        }
        assert!(gpu.download(address, n, stream).unwrap().iter().all(|x| x.is_nan()));
    }
    assert_eq!(flanrt_emulator::stats().live_bytes, 4 * (1 + 64 + 1000 + 1024 + (1 << 20)));
}

#[test]
fn streams_are_lazy_and_events_order_them() {
    let gpu = Gpu::new();
    let (a, b, event) = (gpu.stream(), gpu.stream(), gpu.event());
    let (x, host) = (gpu.alloc(32), Pinned::new(8, 9.0));
    gpu.fill(x, 3.0, 8, a);
    cu!(cuMemcpyDtoHAsync_v2(host.pointer(), x, 32, b)).unwrap();
    assert_eq!(host.values(), [9.0; 8], "nothing waited, nothing ran");
    cu!(cuStreamSynchronize(b)).unwrap();
    assert!(host.values().iter().all(|x| x.is_nan()), "b did not wait for a and read poison");
    cu!(cuEventRecord(event, a)).unwrap();
    cu!(cuStreamWaitEvent(b, event, 0)).unwrap();
    cu!(cuMemcpyDtoHAsync_v2(host.pointer(), x, 32, b)).unwrap();
    cu!(cuStreamSynchronize(b)).unwrap();
    assert_eq!(host.values(), [3.0; 8]);
    cu!(cuEventQuery(event)).unwrap();
}

#[test]
fn a_loop_that_asks_for_completion_ends() {
    let gpu = Gpu::new();
    let (stream, event, x) = (gpu.stream(), gpu.event(), gpu.alloc(4));
    gpu.fill(x, 1.0, 1, stream);
    cu!(cuEventRecord(event, stream)).unwrap();
    assert_eq!(cu!(cuEventQuery(event)), Err(CUDA_ERROR_NOT_READY));
    assert_eq!(cu!(cuEventQuery(event)), Ok(()));
    assert_eq!(cu!(cuStreamQuery(stream)), Ok(()));
    let (later, mut duration) = (gpu.event(), -1.0);
    gpu.fill(x, 2.0, 1, stream);
    cu!(cuEventRecord(later, stream)).unwrap();
    assert_eq!(cu!(cuEventElapsedTime(&mut duration, event, later)), Err(CUDA_ERROR_NOT_READY));
    cu!(cuEventSynchronize(later)).unwrap();
    cu!(cuEventElapsedTime(&mut duration, event, later)).unwrap();
    assert!(duration >= 0.0);
}

#[test]
fn pinned_sources_are_read_late_and_pageable_ones_at_the_call() {
    let gpu = Gpu::new();
    let (stream, x) = (gpu.stream(), gpu.alloc(16));
    let mut pinned = Pinned::new(4, 1.0);
    cu!(cuMemcpyHtoDAsync_v2(x, pinned.pointer(), 16, stream)).unwrap();
    pinned.values_mut().fill(2.0);
    assert_eq!(gpu.download(x, 4, stream).unwrap(), [2.0; 4], "overwritten before it was read");
    let mut pageable = [1f32; 4];
    cu!(cuMemcpyHtoDAsync_v2(x, pageable.as_ptr().cast(), 16, stream)).unwrap();
    pageable.fill(2.0);
    assert_eq!(gpu.download(x, 4, stream).unwrap(), [1.0; 4]);
}

#[test]
fn the_default_stream_and_blocking_streams_wait_for_each_other() {
    let gpu = Gpu::new();
    let x = gpu.upload(&[0.0]);
    let mut blocking = null_mut();
    cu!(cuStreamCreate(&mut blocking, 0)).unwrap();
    for stream in [blocking, null_mut(), blocking, null_mut()] {
        gpu.add(x, x, 1.0, 1, stream);
    }
    cu!(cuStreamSynchronize(null_mut())).unwrap();
    let free = gpu.stream();
    assert_eq!(gpu.download(x, 1, free).unwrap(), [4.0]);
    gpu.add(x, x, 1.0, 1, free);
    cu!(cuStreamSynchronize(null_mut())).unwrap();
    let mut value = 0f32;
    cu!(cuMemcpyDtoH_v2((&raw mut value).cast(), x, 4)).unwrap();
    assert_eq!(value, 4.0, "the default stream does not wait for a non-blocking stream");
}

#[test]
fn copies_and_fills() {
    let gpu = Gpu::new();
    let stream = gpu.stream();
    let x = gpu.upload(&(0..24).map(|i| i as f32).collect::<Vec<_>>());
    let y = gpu.alloc(96);
    cu!(cuMemsetD32Async(y, 5f32.to_bits(), 24, stream)).unwrap();
    // Columns 1 and 2 of x [4, 6] to columns 0 and 1 of y [8, 3] from row 2 on.
    let copy = sys::CUDA_MEMCPY2D {
        srcXInBytes: 4,
        srcY: 0,
        srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
        srcHost: null(),
        srcDevice: x,
        srcArray: null_mut(),
        srcPitch: 24,
        dstXInBytes: 0,
        dstY: 2,
        dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_DEVICE,
        dstHost: null_mut(),
        dstDevice: y,
        dstArray: null_mut(),
        dstPitch: 12,
        WidthInBytes: 8,
        Height: 4,
    };
    cu!(cuMemcpy2DAsync_v2(&copy, stream)).unwrap();
    let mut want = vec![5f32; 24];
    for row in 0..4 {
        for column in 0..2 {
            want[(row + 2) * 3 + column] = (row * 6 + column + 1) as f32;
        }
    }
    assert_eq!(gpu.download(y, 24, stream).unwrap(), want);
    cu!(cuMemsetD16Async(y, 0x3f80, 2, stream)).unwrap();
    cu!(cuMemsetD8Async(y + 4, 0, 4, stream)).unwrap();
    cu!(cuMemcpyDtoDAsync_v2(y + 8, y, 8, stream)).unwrap();
    let got = gpu.download(y, 4, stream).unwrap();
    assert_eq!(got.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), [0x3f803f80, 0, 0x3f803f80, 0]);
}

#[test]
fn memory_of_streams_is_freed_in_their_order() {
    let gpu = Gpu::new();
    let stream = gpu.stream();
    let mut x = 0;
    cu!(cuMemAllocAsync(&mut x, 400, stream)).unwrap();
    gpu.fill(x, 2.0, 100, stream);
    let host = Pinned::new(100, 0.0);
    cu!(cuMemcpyDtoHAsync_v2(host.pointer(), x, 400, stream)).unwrap();
    cu!(cuMemFreeAsync(x, stream)).unwrap();
    assert_eq!(flanrt_emulator::stats().live_allocations, 1);
    cu!(cuStreamSynchronize(stream)).unwrap();
    assert_eq!(flanrt_emulator::stats().live_allocations, 0);
    assert_eq!(host.values(), [2.0; 100]);
}

/// Captures `work` in a stream.
fn capture(stream: sys::CUstream, work: impl FnOnce()) -> Result<sys::CUgraphExec, CUresult> {
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    cu!(cuStreamBeginCapture_v2(stream, mode)).unwrap();
    work();
    let (mut graph, mut exec) = (null_mut(), null_mut());
    cu!(cuStreamEndCapture(stream, &mut graph))?;
    cu!(cuGraphInstantiateWithFlags(&mut exec, graph, 0)).unwrap();
    cu!(cuGraphDestroy(graph)).unwrap();
    Ok(exec)
}

#[test]
fn graphs_replay_with_the_arguments_of_their_capture() {
    let gpu = Gpu::new();
    let stream = gpu.stream();
    let (x, y) = (gpu.upload(&[0.0; 300]), gpu.upload(&[0.0; 300]));
    let launches = flanrt_emulator::stats().launches;
    let exec = capture(stream, || {
        gpu.add(y, x, 1.0, 300, stream);
        gpu.add(x, y, 1.0, 300, stream);
    })
    .unwrap();
    cu!(cuGraphUpload(exec, stream)).unwrap();
    assert_eq!(flanrt_emulator::stats().launches, launches, "a capture runs nothing");
    for step in 1..=3 {
        cu!(cuGraphLaunch(exec, stream)).unwrap();
        assert_eq!(gpu.download(x, 300, stream).unwrap(), [2.0 * step as f32; 300]);
    }
    cu!(cuGraphExecDestroy(exec)).unwrap();
    assert_eq!(cu!(cuGraphLaunch(exec, stream)), Err(CUDA_ERROR_INVALID_HANDLE));
    assert_eq!(flanrt_emulator::stats().launches, launches + 6);
}

#[test]
fn a_capture_spreads_by_events_and_must_be_joined() {
    let gpu = Gpu::new();
    let (a, b, fork, join) = (gpu.stream(), gpu.stream(), gpu.event(), gpu.event());
    let (x, y, z) = (gpu.upload(&[1.0]), gpu.upload(&[0.0]), gpu.upload(&[0.0]));
    let forked = |joined: bool| {
        capture(a, || {
            gpu.add(x, x, 1.0, 1, a);
            cu!(cuEventRecord(fork, a)).unwrap();
            cu!(cuStreamWaitEvent(b, fork, 0)).unwrap();
            gpu.add(y, x, 10.0, 1, b);
            gpu.add(z, x, 20.0, 1, a);
            cu!(cuEventRecord(join, b)).unwrap();
            if joined {
                cu!(cuStreamWaitEvent(a, join, 0)).unwrap();
                gpu.add(z, y, 100.0, 1, a);
            }
        })
    };
    assert_eq!(forked(false), Err(CUDA_ERROR_STREAM_CAPTURE_UNJOINED));
    let exec = forked(true).unwrap();
    for (run, options) in [
        Options::default(),
        Options { reverse: true, ..Options::default() },
        Options { seed: 5, ..Options::default() },
    ]
    .into_iter()
    .enumerate()
    {
        flanrt_emulator::set_options(options);
        cu!(cuGraphLaunch(exec, a)).unwrap();
        assert_eq!(gpu.download(z, 1, a).unwrap(), [112.0 + run as f32]);
    }
}

#[test]
fn host_functions_run_in_their_stream() {
    extern "C" fn double(data: *mut std::ffi::c_void) {
        // SAFETY: the test passes the first of its floats, which nothing else touches meanwhile.
        unsafe { *data.cast::<f32>() *= 2.0 }
    }
    let gpu = Gpu::new();
    let (stream, x) = (gpu.stream(), gpu.upload(&[21.0]));
    let host = Pinned::new(1, 0.0);
    cu!(cuMemcpyDtoHAsync_v2(host.pointer(), x, 4, stream)).unwrap();
    cu!(cuLaunchHostFunc(stream, Some(double), host.pointer())).unwrap();
    cu!(cuMemcpyHtoDAsync_v2(x, host.pointer(), 4, stream)).unwrap();
    assert_eq!(gpu.download(x, 1, stream).unwrap(), [42.0]);
}

#[test]
fn host_functions_must_not_call_the_driver() {
    extern "C" fn allocate(data: *mut std::ffi::c_void) {
        let mut p = 0;
        let result = cu!(cuMemAlloc_v2(&mut p, 4));
        // SAFETY: the test passes its flag and waits for this function.
        unsafe { *data.cast::<bool>() = result == Err(CUDA_ERROR_NOT_PERMITTED) }
    }
    let gpu = Gpu::new();
    let (stream, mut refused) = (gpu.stream(), false);
    cu!(cuLaunchHostFunc(stream, Some(allocate), (&raw mut refused).cast())).unwrap();
    cu!(cuStreamSynchronize(stream)).unwrap();
    assert!(refused);
}

#[test]
fn launch_attributes_that_change_nothing_are_taken() {
    let gpu = Gpu::new();
    let (stream, y) = (gpu.stream(), gpu.alloc(4));
    let (mut address, mut value, mut n) = (y, 3f32, 1i32);
    let mut values = [(&raw mut address).cast(), (&raw mut value).cast(), (&raw mut n).cast()];
    // SAFETY: an attribute is plain bytes.
    let mut attribute: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
    let function = gpu.function("fill_f32").unwrap();
    let mut launch = |id, word: u32| {
        attribute.id = id;
        attribute.value.cooperative = word as i32;
        let config = sys::CUlaunchConfig {
            gridDimX: 1,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: 32,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: stream,
            attrs: &mut attribute,
            numAttrs: 1,
        };
        cu!(cuLaunchKernelEx(&config, function, values.as_mut_ptr(), null_mut()))
    };
    use sys::CUlaunchAttributeID::*;
    launch(CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, 1).unwrap();
    assert_eq!(launch(CU_LAUNCH_ATTRIBUTE_COOPERATIVE, 1), Err(CUDA_ERROR_NOT_SUPPORTED));
    said("launch attribute 2 is not emulated");
    assert_eq!(gpu.download(y, 1, stream).unwrap(), [3.0]);
}

#[test]
fn random_schedules_give_the_same_results() {
    let gpu = Gpu::new();
    let (a, b, event) = (gpu.stream(), gpu.stream(), gpu.event());
    let rows = 7;
    let x = gpu.upload(&(0..rows * 100).map(|i| i as f32).collect::<Vec<_>>());
    let y = gpu.alloc(4 * rows);
    for seed in 0..10 {
        flanrt_emulator::set_options(Options { seed, early: seed % 2 == 1, reverse: seed % 3 == 1 });
        let args = [Arg::Ptr(y), Arg::Ptr(x), Arg::I64(100), Arg::I32(100)];
        gpu.launch("row_sum_f32", rows as u32, 64, a, &args).unwrap();
        cu!(cuEventRecord(event, a)).unwrap();
        cu!(cuStreamWaitEvent(b, event, 0)).unwrap();
        gpu.add(y, y, 1.0, rows, b);
        let want: Vec<f32> = (0..rows).map(|r| (10_000 * r + 4951) as f32).collect();
        assert_eq!(gpu.download(y, rows, b).unwrap(), want, "seed {seed}");
    }
}

#[test]
fn tensor_maps_are_checked() {
    #[repr(align(64))]
    struct Aligned(sys::CUtensorMap);
    // SAFETY: a tensor map is plain bytes.
    let mut map = Aligned(unsafe { std::mem::zeroed() });
    let gpu = Gpu::new();
    // x [rows, cols] bf16.
    let (rows, cols) = (40u64, 96u64);
    let x = gpu.alloc((rows * cols * 2) as usize);
    let mut encode = |address: u64, dims: [u64; 2], stride: u64, tile: [u32; 2]| {
        use sys::*;
        cu!(cuTensorMapEncodeTiled(
            &mut map.0,
            CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            2,
            address as *mut _,
            dims.as_ptr(),
            [stride].as_ptr(),
            tile.as_ptr(),
            [1u32, 1].as_ptr(),
            CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        ))
    };
    encode(x, [cols, rows], 2 * cols, [64, 64]).unwrap();
    for (address, dims, stride, tile, text) in [
        (x + 8, [cols, rows], 2 * cols, [64, 64], "not 16-byte aligned"),
        (x, [cols, rows], 2 * cols - 2, [64, 64], "stride of 190 bytes"),
        (x, [cols, rows], 2 * cols - 16, [64, 64], "rows of 192 bytes overlap"),
        (x, [cols, rows], 2 * cols, [64, 257], "257 elements in dimension 1"),
        (x, [cols, rows], 2 * cols, [128, 64], "does not fit the swizzle of 128 bytes"),
        (x, [cols, rows], 2 * cols, [4, 64], "a box row of 8 bytes"),
        (x, [0, rows], 2 * cols, [64, 64], "dimension 0 has 0 elements"),
        (x, [cols, rows + 1], 2 * cols, [64, 64], "not inside a live allocation"),
    ] {
        assert_eq!(encode(address, dims, stride, tile), Err(CUDA_ERROR_INVALID_VALUE), "{text}");
        said(text);
    }
}

#[test]
fn the_device_has_the_limits_of_its_capability() {
    use sys::CUdevice_attribute::*;
    let gpu = Gpu::new();
    assert_eq!(gpu.context.name().unwrap(), "Emulated GPU");
    assert_eq!(gpu.context.compute_capability().unwrap(), (9, 0));
    assert_eq!(gpu.context.total_mem().unwrap(), 1 << 30);
    for (attribute, value) in [
        (CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 4),
        (CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 232_448),
        (CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 2048),
        (CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32),
    ] {
        assert_eq!(gpu.context.attribute(attribute).unwrap(), value);
    }
    let mut blocks = 0;
    let function = gpu.function("reverse_u32").unwrap();
    cu!(cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut blocks, function, 256, 40_000)).unwrap();
    assert_eq!(blocks, 5);
}
