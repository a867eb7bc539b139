//! Does the CUDA backend keep its house: memory, transfers, recorded work, errors? On the emulated driver, whose streams are
//! lazy: what the backend does not wait for has not happened. What its ops compute is asked in `tests/ops`, what a model
//! does on it in `tests/cuda.rs`.

use flanrt::cuda::{self, Cuda};
use flanrt::error::{Kind, catch};
use flanrt::ops::{Elem, Memory};
use flanrt::tensor::{DType, Tensor};
use flanrt_emulator::Mode;
use std::sync::{Mutex, MutexGuard};

/// A device, and the right to look at the driver's counters while nobody else changes them. `None`: no emulator here.
fn device() -> Option<(Cuda, MutexGuard<'static, ()>)> {
    static ONE: Mutex<()> = Mutex::new(());
    if let Err(reason) = flanrt_emulator::available() {
        eprintln!("skipped: {reason}");
        return None;
    }
    flanrt_emulator::install(Mode::Plain);
    let one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    Some((Cuda::new(0).unwrap(), one))
}

/// Memory of `device` for `n` elements.
fn tensor(device: &Cuda, n: usize) -> (flanrt::ops::Block, Tensor) {
    let block = device.alloc(n * 4).unwrap();
    // SAFETY: so many bytes were allocated, and the block outlives the test's use of the tensor.
    let tensor = unsafe { Tensor::over(block.addr(), DType::U32, 1, n) };
    (block, tensor)
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

fn read(device: &Cuda, x: Tensor) -> Vec<u32> {
    let mut out = vec![0; x.bytes()];
    device.read(&mut out, x);
    words(&out)
}

#[test]
fn the_gpu_is_described() {
    let Some((device, _one)) = device() else { return };
    let gpus = cuda::gpus().unwrap();
    assert_eq!(gpus.len(), 1);
    assert_eq!((gpus[0].index, gpus[0].capability), (0, 90));
    assert!(gpus[0].sms > 0 && gpus[0].memory > 0 && gpus[0].unusable().is_none());
    assert!(device.name().starts_with("cuda:0 ("), "{}", device.name());
    assert!(device.free().unwrap() <= gpus[0].memory);
    let missing = Cuda::new(7).err().unwrap();
    assert!(missing.kind == Kind::Device && missing.message.contains("no GPU 7"), "{missing}");
}

#[test]
fn memory_is_zeroed_and_given_back() {
    let Some((device, _one)) = device() else { return };
    let before = flanrt_emulator::stats().live_bytes;
    let (block, x) = tensor(&device, 1000);
    assert_eq!(block.addr() % 64, 0);
    assert!(read(&device, x).iter().all(|w| *w == 0));
    assert!(flanrt_emulator::stats().live_bytes >= before + 4000);
    // A block may outlive the device that made it.
    drop(device);
    drop(block);
    assert!(flanrt_emulator::stats().live_bytes <= before);
}

#[test]
fn too_much_is_an_error_of_memory() {
    let Some((device, _one)) = device() else { return };
    let e = device.alloc(1 << 40).err().unwrap();
    assert!(e.kind == Kind::Memory && e.message.contains("1048576 MiB of the"), "{e}");
    assert!(e.fix.unwrap().contains("--micro-batch"));
    let (_block, x) = tensor(&device, 4);
    assert_eq!(read(&device, x), [0; 4], "the device still works");
    assert_eq!(device.alloc(0).unwrap().addr() % 64, 0);
}

#[test]
fn transfers_of_every_length_arrive_in_order() {
    let Some((device, _one)) = device() else { return };
    // More than the staging memory holds at once, and so many small ones that it goes round.
    let n = (40 << 20) / 4 + 3;
    let (_block, x) = tensor(&device, n);
    let numbers =
        |seed: u32, n: usize| (0..n as u32).map(|i| i.wrapping_mul(2_654_435_761) ^ seed).collect::<Vec<_>>();
    let large = numbers(1, n);
    device.write(x, &bytes(&large));
    assert!(read(&device, x) == large);
    let small = |i: usize| x.slice_cols(i * 1000..i * 1000 + 999);
    for i in 0..2000 {
        device.write(small(i), &bytes(&numbers(i as u32, 999)));
        device.write(small(i), &bytes(&numbers(!i as u32, 999)));
    }
    for i in [0, 1, 999, 1999] {
        assert!(read(&device, small(i)) == numbers(!i as u32, 999), "{i}");
    }
    let rest = x.slice_cols(2_000_000..n);
    assert!(read(&device, rest) == large[2_000_000..], "what is beside them stays");
}

#[test]
fn a_fetch_brings_the_bytes_of_its_moment() {
    let Some((device, _one)) = device() else { return };
    let (_block, x) = tensor(&device, 100);
    device.write(x, &bytes(&[1; 100]));
    let first = device.fetch(x);
    device.write(x, &bytes(&[2; 100]));
    let second = device.fetch(x.slice_cols(10..20));
    // Nobody waits for this one: its buffer must not be given to the next before it is done.
    drop(device.fetch(x));
    device.write(x, &bytes(&[3; 100]));
    let third = device.fetch(x);
    assert_eq!(words(&third.wait()), [3; 100]);
    assert_eq!(words(&first.wait()), [1; 100]);
    assert_eq!(words(&second.wait()), [2; 10]);
}

#[test]
fn zero_covers_the_tensor_alone() {
    let Some((device, _one)) = device() else { return };
    let (_block, x) = tensor(&device, 35);
    let x = x.reshape(5, 7);
    device.write(x, &bytes(&[9; 35]));
    device.zero(x.slice_rows(1..4).slice_cols(2..5));
    device.zero(x.slice_cols(3..3));
    let got = read(&device, x);
    for (i, word) in got.iter().enumerate() {
        let inside = (1..4).contains(&(i / 7)) && (2..5).contains(&(i % 7));
        assert_eq!(*word, if inside { 0 } else { 9 }, "{i}");
    }
    device.zero(x);
    assert_eq!(read(&device, x), [0; 35]);
}

#[test]
fn work_is_recorded_the_second_time_and_replayed_from_then_on() {
    let Some((device, _one)) = device() else { return };
    let (_block, x) = tensor(&device, 100);
    let mut ran = 0;
    let mut round = |key: u64, part: Tensor| {
        device.write(x, &bytes(&[7; 100]));
        let before = flanrt_emulator::stats().graph_launches;
        device.replay(&[key, 1], &mut || {
            ran += 1;
            device.zero(part);
        });
        let got = read(&device, x);
        assert_eq!(got.iter().filter(|w| **w == 0).count(), part.cols());
        (ran, flanrt_emulator::stats().graph_launches - before)
    };
    let (a, b) = (x.slice_cols(0..10), x.slice_cols(20..50));
    assert_eq!(round(1, a), (1, 0));
    assert_eq!(round(1, a), (2, 1));
    assert_eq!(round(1, a), (2, 1));
    assert_eq!(round(2, b), (3, 0));
    assert_eq!(round(2, b), (4, 1));
    assert_eq!(round(1, a), (4, 1));
    // Freed memory: the addresses in recordings mean nothing any more.
    drop(tensor(&device, 1));
    assert_eq!(round(1, a), (5, 0));
}

#[test]
fn what_is_written_ahead_is_there_for_the_work_after_it() {
    let Some((device, _one)) = device() else { return };
    // Two places in turn, as batches have them; the work copies a place to where it is read.
    let (_block, all) = tensor(&device, 3000);
    let places = [all.slice_cols(0..1000), all.slice_cols(1000..2000)];
    let out = all.slice_cols(2000..3000);
    let float = |x: Tensor| {
        // SAFETY: the same memory, seen as f32 of the same size.
        unsafe { Tensor::over(x.addr(), DType::F32, 1, x.cols()) }
    };
    let mut fetched = Vec::new();
    for round in 0..9u32 {
        let place = places[round as usize % 2];
        device.write_ahead(place, &bytes(&[(round as f32).to_bits(); 1000]));
        device.replay(&[u64::from(round % 2)], &mut || device.convert(float(out), float(place)));
        fetched.push(device.fetch(out));
    }
    for (round, got) in fetched.into_iter().enumerate() {
        assert_eq!(words(&got.wait()), [(round as f32).to_bits(); 1000], "round {round}");
    }
    // New memory is cleared before what is written ahead arrives.
    let (_block, x) = tensor(&device, 1000);
    device.write_ahead(x, &bytes(&[5; 1000]));
    assert_eq!(read(&device, x), [5; 1000]);
}

#[test]
fn recorded_work_has_no_transfers() {
    let Some((device, _one)) = device() else { return };
    let (_block, x) = tensor(&device, 4);
    device.replay(&[1], &mut || device.zero(x));
    let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        device.replay(&[1], &mut || device.write(x, &[0; 16]));
    }));
    assert!(panics.is_err());
}

#[test]
fn the_table_has_the_kernels_and_types_of_the_sources() {
    let Some((_device, _one)) = device() else { return };
    let mut compiled: Vec<(String, Vec<String>)> = flanrt_emulator::kernels()
        .into_iter()
        .map(|kernel| (kernel.name, kernel.params.into_iter().map(|param| param.ty).collect()))
        .collect();
    let mut table = cuda::kernel_table();
    compiled.sort();
    table.sort();
    for (theirs, ours) in compiled.iter().zip(&table) {
        assert_eq!(theirs, ours, "the sources have the left kernel, the table the right one");
    }
    assert_eq!(compiled.len(), table.len());
}

/// What a broken GPU comes to: in a process of its own, because a CUDA error stays.
#[test]
fn an_error_of_the_gpu_is_thrown_where_the_host_waits() {
    const CHILD: &str = "FLANRT_TEST_BROKEN_GPU";
    if std::env::var_os(CHILD).is_none() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["an_error_of_the_gpu_is_thrown_where_the_host_waits", "--exact", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let Some((device, _one)) = device() else { return };
    let (block, x) = tensor(&device, 4);
    drop(block);
    device.zero(x);
    let thrown = catch(|| {
        read(&device, x);
        Ok(())
    });
    let e = thrown.unwrap_err();
    assert!(e.kind == Kind::Device && e.message.contains("CUDA_ERROR"), "{e}");
}
