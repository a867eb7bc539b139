//! Do the emulator, the hardware and plain arithmetic agree on every instruction that the kernels use?
//!
//! The `.cu` files beside this one hold a kernel for each wrapper of `kernels/ptx.cuh`. `cases` gives them inputs and says
//! what must come out, computed plainly; `machine` runs them through whatever CUDA driver there is; `dump` is the file of
//! results. `cargo test` compares the emulator with plain arithmetic and with the dumps of real GPUs in `tests/fixtures`.
//!
//! The ignored tests are the steps of `scripts/gpu.sh`, which names the folder of their files in `FLANRT_CONFORMANCE`:
//! `images` compiles the kernels, `emulated` writes the emulator's dump, `hardware` runs on a GPU and writes its dump.

#[path = "../../build/nvcc.rs"]
#[allow(dead_code)]
mod nvcc;

mod cases;
mod dump;
mod hopper;
mod machine;
mod plain;

use cases::Case;
use dump::Dump;
use machine::Machine;
use std::path::{Path, PathBuf};

/// The kernel files beside this one, without extension.
const SOURCES: [&str; 2] = ["portable", "hopper_sm90"];

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance")
}

/// Where the files of a conformance run are.
fn folder() -> PathBuf {
    let folder = std::env::var_os("FLANRT_CONFORMANCE");
    folder.expect("FLANRT_CONFORMANCE names the folder of images and dumps; scripts/gpu.sh sets it").into()
}

fn all_cases() -> Vec<Case> {
    [cases::all(), hopper::all()].concat()
}

/// The emulator as this process's driver. `None`, with a line that says so, where it could not be built.
fn emulator() -> Option<Machine> {
    if let Err(reason) = flanrt_emulator::available() {
        eprintln!("skipped: {reason}");
        return None;
    }
    flanrt_emulator::install_conformance_kernels();
    let images = SOURCES.map(|stem| format!("FLANRT-EMU {stem}\0").into_bytes());
    Some(Machine::open(&images).expect("the emulator opens"))
}

/// Panics with every case in `dump` that is not what plain arithmetic says.
fn check_against_plain(who: &str, cases: &[Case], dump: &Dump) {
    let ran = cases.iter().filter_map(|case| dump.get(&case.name).map(|got| (case, got)));
    let wrong: Vec<_> =
        ran.filter_map(|(case, got)| case.law.difference(got, &case.want).map(|d| (case, d))).collect();
    let lines: Vec<_> = wrong.iter().map(|(case, d)| format!("{}: {d}", case.name)).collect();
    assert!(lines.is_empty(), "{who} is not what plain arithmetic says:\n{}", lines.join("\n"));
}

/// Panics with every case that is in both dumps with different results.
fn check_against_each_other(what: [&str; 2], cases: &[Case], dumps: [&Dump; 2]) {
    let both = |name: &str| Some((dumps[0].get(name)?, dumps[1].get(name)?));
    let different = |case: &Case| {
        let (a, b) = both(&case.name)?;
        case.law.difference(a, b).map(|d| format!("{}: {d}", case.name))
    };
    let lines: Vec<_> = cases.iter().filter_map(different).collect();
    assert!(lines.is_empty(), "{} and {} (\"not\") differ:\n{}", what[0], what[1], lines.join("\n"));
}

#[test]
fn the_emulator_agrees_with_plain_arithmetic_and_with_gpus() {
    let Some(machine) = emulator() else { return };
    let cases = all_cases();
    let emulated = machine.run(&cases);
    assert_eq!(emulated.len(), cases.len(), "the emulator has every kernel");
    check_against_plain("the emulator", &cases, &emulated);
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for entry in std::fs::read_dir(fixtures).expect("fixtures").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("conformance-") && name.ends_with(".bin") {
            let stored = Dump::read(&entry.path());
            check_against_each_other([&name, "the emulator"], &cases, [&stored, &emulated]);
        }
    }
}

/// Names of the functions that `kernels/ptx.cuh` defines.
fn wrappers() -> Vec<String> {
    let header = std::fs::read_to_string(here().join("../../kernels/ptx.cuh")).expect("ptx.cuh");
    let name = |line: &str| {
        let declared = line.split_once("DEVICE ")?.1.split('(').next()?;
        let name = declared.split('<').next()?.split_whitespace().last()?;
        Some(name.to_string())
    };
    header.lines().filter(|line| !line.trim_start().starts_with("//")).filter_map(name).collect()
}

#[test]
fn every_wrapper_is_called() {
    let read = |stem| std::fs::read_to_string(here().join(stem).with_extension("cu")).expect("a source");
    let sources = SOURCES.map(read).concat();
    let wrappers = wrappers();
    assert!(wrappers.len() > 30 && wrappers.contains(&"wgmma_ss".to_string()), "{wrappers:?}");
    for name in wrappers {
        assert!(sources.contains(&format!("ptx::{name}")), "no kernel here calls ptx::{name}");
    }
}

#[test]
fn dumps_survive_a_file() {
    let mut dump = Dump::default();
    dump.put("one", vec![1, u32::MAX]);
    dump.put("none", vec![]);
    let path = std::env::temp_dir().join(format!("flanrt-dump-{}.bin", std::process::id()));
    dump.write(&path);
    assert_eq!(Dump::read(&path), dump);
    std::fs::remove_file(path).expect("the file is there");
}

#[test]
#[ignore = "a step of scripts/gpu.sh; needs nvcc"]
fn images() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let nvcc =
        nvcc::Nvcc::find(root).expect("a working nvcc").expect("an nvcc; `make cuda-toolkit` installs one");
    let compiler =
        nvcc::Compiler::new(nvcc, &root.join("kernels"), &folder()).expect("the folder can be written");
    for stem in SOURCES {
        let source = here().join(stem).with_extension("cu");
        let targets = nvcc::targets(&source, &nvcc::TARGETS);
        let objects = targets.iter().map(|target| compiler.object(&source, target).expect("it compiles"));
        let image = compiler.image(&source, &objects.collect::<Vec<_>>()).expect("an image");
        std::fs::copy(image, folder().join(stem).with_extension("fatbin"))
            .expect("the folder can be written");
    }
    std::fs::remove_dir_all(folder().join("kernels")).expect("the compiler's results can go");
}

#[test]
#[ignore = "a step of scripts/gpu.sh; needs the emulator"]
fn emulated() {
    let machine = emulator().expect("the emulator");
    machine.run(&all_cases()).write(&folder().join("emulator.bin"));
}

#[test]
#[ignore = "a step of scripts/gpu.sh; needs a GPU"]
fn hardware() {
    let read = |stem: &str| {
        let path = folder().join(stem).with_extension("fatbin");
        std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    let machine = Machine::open(&SOURCES.map(read)).unwrap_or_else(|e| panic!("{e}"));
    let cases = all_cases();
    let dump = machine.run(&cases);
    let path = folder().join(format!("conformance-{}.bin", machine.slug()));
    dump.write(&path);
    println!(
        "{}: {} of {} cases ran; written to {}",
        machine.name(),
        dump.len(),
        cases.len(),
        path.display()
    );
    check_against_plain(machine.name(), &cases, &dump);
    let emulated = Dump::read(&folder().join("emulator.bin"));
    check_against_each_other([machine.name(), "the emulator"], &cases, [&dump, &emulated]);
}
