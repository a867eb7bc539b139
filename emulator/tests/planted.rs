//! Planted bugs (tests/kernels/planted.cu): the checked build names every one, the plain build those that it can see, and
//! both find nothing in the correct twins.

#![allow(clippy::macro_metavars_in_unsafe)] // of cu!, whose arguments are plain values

mod common;

use common::*;
use flanrt_emulator::{Mode, Options};

/// How a bug shows.
#[derive(Clone, Copy, Debug)]
enum Shows {
    /// The launch fails and says this.
    As(&'static str),
    /// The result differs from the correct twin's.
    Wrong,
    /// Either.
    Somehow,
    /// Matrix loads or stores meet bank conflicts.
    Conflicts,
    /// Nothing is promised.
    Hidden,
}
use Shows::*;

/// Name, blocks, threads, in the plain build, in the checked build.
const BUGS: &[(&str, u32, u32, Shows, Shows)] = &[
    // Barriers and shared memory.
    ("reduce_without_barrier", 1, 256, Wrong, As("read of uninitialised shared memory")),
    ("reduce_of_too_many", 1, 256, Wrong, As("read of uninitialised shared memory")),
    ("reuse_without_barrier", 1, 256, Wrong, As("race with a write by thread 224")),
    ("reuse_of_doubles", 1, 64, Wrong, As("race with a write by thread 32")),
    ("warp_without_sync", 1, 32, Wrong, As("read of uninitialised shared memory")),
    ("shared_overrun", 1, 64, Hidden, As("out-of-bounds write to shared memory")),
    ("dynamic_overrun", 1, 64, Hidden, As("out-of-bounds write to shared memory, offset 256")),
    (
        "half_attended_barrier",
        1,
        128,
        As("barrier 1 has 64 of 128 arrivals"),
        As("barrier 1 has 64 of 128 arrivals"),
    ),
    ("barrier_counts_differ", 1, 128, As("used with 128 and with 64"), As("used with 128 and with 64")),
    ("arrive_too_early", 1, 128, Hidden, As("race with a write by thread")),
    // Warp collectives.
    ("divergent_shuffle", 1, 32, As("deadlock: 16 of 32 threads"), As("deadlock: 16 of 32 threads")),
    ("divergent_collectives", 1, 32, As("divergence: lane"), As("divergence: lane")),
    ("lane_not_in_mask", 1, 32, As("not in the mask 0000ffff"), As("not in the mask 0000ffff")),
    (
        "source_not_in_mask",
        1,
        32,
        As("reads lane 16, which is not in the mask"),
        As("which is not in the mask"),
    ),
    // Device memory.
    ("read_past_the_end", 1, 256, Hidden, As("16384 bytes into a 16384-byte allocation")),
    ("write_past_the_end", 1, 256, Somehow, As("out-of-bounds write to device memory")),
    ("read_of_output", 1, 256, Wrong, As("read of uninitialised device memory")),
    ("misaligned_vector", 1, 64, Somehow, As("misaligned access to device memory, 4 bytes into")),
    ("null_pointer", 1, 32, As("illegal or misaligned address"), As("illegal or misaligned address")),
    ("blocks_write_one_place", 4, 32, Wrong, As("race with a write by thread 0 of another block")),
    // Between blocks.
    ("last_block_without_atomic", 4, 64, Hidden, As("of another block")),
    ("last_block_without_barrier", 4, 64, Hidden, As("of another block")),
    ("last_block_without_fence", 4, 64, Hidden, As("of another block")),
    ("acquire_without_release", 4, 32, Hidden, As("race with a write by thread 0 of another block")),
    ("acquire_by_one_thread", 4, 32, Hidden, As("race with a write by thread 1 of another block")),
    ("release_without_acquire", 4, 32, Hidden, As("race with a write by thread 0 of another block")),
    (
        "wait_for_a_later_block",
        4,
        32,
        As("wait in a loop of load_acquire"),
        As("wait in a loop of load_acquire"),
    ),
    // cp.async.
    (
        "last_copy_not_waited",
        1,
        128,
        As("that it never waited for"),
        As("an asynchronous copy into these bytes"),
    ),
    ("copy_without_barrier", 1, 128, Wrong, As("read of uninitialised shared memory")),
    ("refill_without_barrier", 1, 128, Wrong, As("an asynchronous copy into these bytes is still in flight")),
    (
        "copy_not_committed",
        1,
        32,
        As("never committed"),
        As("an asynchronous copy into these bytes is still in flight"),
    ),
    ("copy_misaligned", 1, 32, As("not 16-byte aligned"), As("not 16-byte aligned")),
    // Fragments.
    ("ldmatrix_uninitialised", 1, 32, Wrong, As("read of uninitialised shared memory")),
    ("ldmatrix_misaligned", 1, 32, As("not 16-byte aligned"), As("not 16-byte aligned")),
    ("ldmatrix_conflicts", 1, 32, Conflicts, Conflicts),
    ("stmatrix_conflicts", 1, 32, Conflicts, Conflicts),
    ("stmatrix_uninitialised", 1, 32, Wrong, As("read of uninitialised shared memory")),
    // mbarriers and TMA.
    ("tile_not_waited", 1, 128, Wrong, As("an asynchronous copy into these bytes is still in flight")),
    ("wrong_parity", 1, 128, Wrong, As("an asynchronous copy into these bytes is still in flight")),
    (
        "too_many_bytes_expected",
        1,
        128,
        As("lacks 0 of 1 arrivals and 16 bytes"),
        As("0 of 1 arrivals and 16 bytes"),
    ),
    ("mbarrier_without_barrier", 1, 128, Hidden, As("race with a write by thread 0")),
    ("mbarrier_without_fence", 1, 128, Hidden, As("TMA's use of the mbarrier")),
    ("producer_skips_empty", 1, 160, As("more arrivals at"), As("more arrivals at")),
    ("stage_released_early", 1, 160, Hidden, As("race with a read by thread")),
    ("store_source_overwritten", 1, 128, Wrong, As("a wgmma or TMA store still reads these bytes")),
    ("store_without_proxy_fence", 1, 128, Hidden, As("without a fence.proxy.async after")),
    ("store_without_barrier", 1, 128, Wrong, As("read of uninitialised shared memory")),
    ("store_not_committed", 1, 128, As("never committed"), As("never committed")),
    ("store_not_waited", 1, 128, As("it never waited for it"), As("it never waited for it")),
    // wgmma.
    ("stage_released_under_wgmma", 1, 160, Wrong, As("a wgmma or TMA store still reads these bytes")),
    ("accumulator_read_early", 1, 160, Wrong, Wrong),
    ("accumulator_written_early", 1, 160, As("was written while a wgmma"), As("was written while a wgmma")),
    ("wgmma_without_fence", 1, 160, As("wgmma without wgmma.fence"), As("wgmma without wgmma.fence")),
    (
        "wgmma_not_committed",
        1,
        160,
        As("never committed"),
        As("a wgmma or TMA store still reads these bytes"),
    ),
    ("wgmma_without_a_warp", 1, 160, As("wait in wgmma"), As("wait in wgmma")),
    ("wgmma_without_proxy_fence", 1, 128, Hidden, As("without a fence.proxy.async after")),
];

const N: usize = 4096;

/// Runs one kernel in a fresh context: y, or the error's text; and bank conflicts.
fn run(
    mode: Mode,
    options: Options,
    name: &str,
    blocks: u32,
    threads: u32,
) -> (Result<Vec<u32>, String>, u64) {
    let gpu = Gpu::with(mode);
    flanrt_emulator::set_options(options);
    let input: Vec<f32> = (0..N).map(|i| ((i * 7 + 3) % 11) as f32 - 5.0).collect();
    // One kernel's bug is to read y, of which it writes 256 elements; the others leave parts of y as they were.
    let fresh = name.starts_with("read_of_output");
    let x = gpu.upload(&input);
    let y = if fresh { gpu.alloc(4 * N) } else { gpu.upload(&vec![0.0; N]) };
    let flags = gpu.upload(&vec![0.0; N]);
    let x_map = tensor_map(
        x,
        Element::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        &[64, 2 * N as u64 / 64],
        &[64, 64],
        Swizzle::CU_TENSOR_MAP_SWIZZLE_128B,
    );
    let y_map = tensor_map(
        y,
        Element::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        &[32, N as u64 / 32],
        &[32, 64],
        Swizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
    );
    let n = N as i32;
    let hopper = param_count(name) == 6;
    let shared = if name.starts_with("dynamic_overrun") {
        256
    } else if hopper {
        16384
    } else {
        0
    };
    let mut values =
        [pointer(&y), pointer(&x), pointer(&flags), pointer(&n), pointer(&x_map), pointer(&y_map)];
    let before = flanrt_emulator::stats().bank_conflicts;
    let done = gpu.launch_raw(name, [blocks, 1], threads, shared, &mut values);
    let conflicts = flanrt_emulator::stats().bank_conflicts - before;
    if done.is_err() {
        return (Err(flanrt_emulator::last_error()), conflicts);
    }
    let result = gpu.download(y, if fresh { 256 } else { N }, std::ptr::null_mut()).unwrap();
    (Ok(result.into_iter().map(f32::to_bits).collect()), conflicts)
}

fn param_count(name: &str) -> usize {
    flanrt_emulator::param_types(name).unwrap_or_else(|| panic!("no kernel {name}")).len()
}

fn all_bugs(mode: Mode) {
    for &(name, blocks, threads, plain, checked) in BUGS {
        let shows = if mode == Mode::Plain { plain } else { checked };
        let (right, clean) = run(mode, Options::default(), &format!("{name}_ok"), blocks, threads);
        let right = right.unwrap_or_else(|error| panic!("{name}: the correct twin fails: {error}"));
        if matches!(shows, Conflicts) {
            assert_eq!(clean, 0, "{name}: the correct twin has bank conflicts");
        }
        let (result, conflicts) = run(mode, Options::default(), &format!("{name}_bug"), blocks, threads);
        let shown = match (shows, &result) {
            (As(text), Err(error)) => error.contains(text),
            (As(_), Ok(_)) => false,
            (Wrong, Ok(wrong)) => *wrong != right,
            (Wrong, Err(_)) => false,
            (Somehow, Ok(wrong)) => *wrong != right,
            (Somehow, Err(_)) => true,
            (Conflicts, _) => conflicts > 0,
            (Hidden, _) => true,
        };
        let result = result.map(|_| "no error");
        assert!(shown, "{name}: expected {shows:?} in the {mode:?} build, got {result:?}");
    }
}

/// No schedule makes a correct kernel fail or changes its result.
fn no_false_alarms(mode: Mode) {
    let schedules = [
        Options { seed: 1, ..Options::default() },
        Options { seed: 2, early: true, ..Options::default() },
        Options { reverse: true, ..Options::default() },
    ];
    for &(name, blocks, threads, _, _) in BUGS {
        let name = format!("{name}_ok");
        let (right, _) = run(mode, Options::default(), &name, blocks, threads);
        for options in schedules {
            let (result, _) = run(mode, options, &name, blocks, threads);
            assert_eq!(result, right, "{name} with {options:?}");
        }
    }
}

alone!(the_checked_build_finds_every_bug, [], { all_bugs(Mode::Checked) });
alone!(the_plain_build_finds_what_shows, [], { all_bugs(Mode::Plain) });
alone!(correct_kernels_pass_in_every_schedule, [], { no_false_alarms(Mode::Plain) });
alone!(correct_kernels_pass_the_checker_in_every_schedule, [], { no_false_alarms(Mode::Checked) });
