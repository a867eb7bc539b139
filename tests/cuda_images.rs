//! Do the kernels compile to what they should? What can be said without a GPU: every file for every architecture, no
//! register spilled, the instructions that make it fast, and the same kernels in the images as in the library's table.
//!
//! Needs nvcc (`make cuda-toolkit`); without one it says so and passes, with `FLANRT_REQUIRE_NVCC=1` it fails. Objects are
//! shared with `build.rs`, so only what changed is compiled.

#[path = "../build/nvcc.rs"]
#[allow(dead_code)] // it has two users, who need different parts
mod nvcc;

use nvcc::{Compiler, Nvcc, Object, TARGETS, stem};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Instructions that a file's machine code must have, by the beginning of its name. Tensor cores, matrix loads and
/// asynchronous copies are what these files are for; without one of them the code is right and slow.
const OPCODES: [(&str, &[&str]); 4] = [
    ("matmul", &["HMMA", "LDSM", "LDGSTS"]),
    ("loss", &["HMMA", "LDSM", "LDGSTS"]),
    ("attention_fwd", &["HMMA", "LDSM", "LDGSTS"]),
    ("attention_bwd", &["HMMA", "LDSM", "LDGSTS"]),
];

/// The same for the files of compute capability 9.0: asynchronous tensor cores and tensor copies.
const HOPPER_OPCODES: &[&str] = &["HGMMA", "UTMALDG"];

/// The compiler, and what it made of every file.
type Compiled = (Compiler, Vec<(PathBuf, Vec<Object>)>);

/// All objects by file, or `None` where there is no nvcc.
fn all() -> Option<&'static Compiled> {
    static ALL: OnceLock<Option<Compiled>> = OnceLock::new();
    ALL.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let Some(nvcc) = Nvcc::find(root).unwrap() else {
            assert!(
                std::env::var("FLANRT_REQUIRE_NVCC").is_err(),
                "FLANRT_REQUIRE_NVCC is set, but there is no nvcc; `make cuda-toolkit` installs one"
            );
            eprintln!("skipped: no nvcc; `make cuda-toolkit` installs one");
            return None;
        };
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let compiler = Compiler::new(nvcc, &root.join("kernels"), target).unwrap();
        let jobs = std::thread::available_parallelism().map_or(1, |n| n.get());
        let objects = compiler.all(&TARGETS, jobs).unwrap_or_else(|e| panic!("{e}"));
        Some((compiler, objects))
    })
    .as_ref()
}

/// The kernels of a compiled file, from the assembler's report.
fn kernels(object: &Object) -> impl Iterator<Item = &str> {
    object.log.lines().filter_map(|line| line.split("Compiling entry function '").nth(1)?.split('\'').next())
}

#[test]
fn nothing_is_spilled_or_serialised() {
    let Some((_, all)) = all() else { return };
    let complaints: Vec<_> =
        all.iter().flat_map(|(_, objects)| objects).flat_map(Object::complaints).collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
    for (source, objects) in all {
        assert!(objects.len() >= nvcc::targets(source, &TARGETS).len(), "{}", source.display());
        let resources = objects.iter().filter(|o| o.target != "ptx" && kernels(o).next().is_some());
        let told =
            resources.filter(|o| o.log.contains("bytes stack frame") && o.log.contains("registers")).count();
        assert_eq!(
            told,
            objects.iter().filter(|o| o.target != "ptx").count(),
            "{}: reports are missing",
            source.display()
        );
    }
}

#[test]
fn complaints_are_heard() {
    let say =
        |log: &str| Object { target: "80".into(), path: PathBuf::new(), log: log.into() }.complaints().len();
    let line = |a, b, c| {
        format!(
            "ptxas info : Function properties for k\n    {a} bytes stack frame, {b} bytes spill stores, {c} bytes spill loads\n"
        )
    };
    assert_eq!(say(&line(0, 0, 0)), 0);
    assert_eq!(
        (say(&line(8, 0, 0)), say(&line(0, 8, 0)), say(&line(0, 0, 8)), say(&line(100, 120, 8))),
        (1, 1, 1, 1)
    );
    assert_eq!(
        say("ptxas info : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized"),
        1
    );
}

#[test]
fn the_images_hold_the_kernels_of_the_table() {
    let Some((_, all)) = all() else { return };
    let table: BTreeSet<String> =
        flanrt::cuda::kernel_table().into_iter().map(|(symbol, _)| symbol).collect();
    let mut found: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for object in all.iter().flat_map(|(_, objects)| objects).filter(|o| o.target != "ptx") {
        let names = kernels(object).map(str::to_owned);
        found.entry(&object.target).or_default().extend(names);
    }
    let hopper = found.remove("90a").unwrap_or_default();
    for (target, mut names) in found {
        names.extend(hopper.iter().cloned());
        let missing: Vec<_> = table.difference(&names).collect();
        let unknown: Vec<_> = names.difference(&table).collect();
        assert!(
            missing.is_empty() && unknown.is_empty(),
            "sm_{target}: missing {missing:?}, not in the table {unknown:?}"
        );
    }
    assert!(
        hopper.iter().all(|name| name.contains(nvcc::HOPPER)),
        "{hopper:?}: names must hold {}",
        nvcc::HOPPER
    );
}

#[test]
fn the_instructions_are_the_fast_ones() {
    let Some((compiler, all)) = all() else { return };
    let Some(tool) = compiler.nvcc().tool("cuobjdump") else {
        eprintln!("skipped: no cuobjdump beside nvcc");
        return;
    };
    for (source, objects) in all {
        let name = stem(source);
        let expected = match name.ends_with(nvcc::HOPPER) {
            true => HOPPER_OPCODES,
            false => {
                OPCODES.iter().find(|(begin, _)| name.starts_with(begin)).map_or(&[][..], |(_, codes)| codes)
            }
        };
        for object in objects.iter().filter(|o| o.target != "ptx") {
            let output = Command::new(&tool).arg("-sass").arg(&object.path).output().unwrap();
            let code = String::from_utf8_lossy(&output.stdout);
            assert!(code.contains("EXIT"), "cuobjdump shows no code of {name} for sm_{}", object.target);
            let has = |opcode: &str| code.contains(&format!(" {opcode}"));
            let missing: Vec<_> = expected.iter().filter(|opcode| !has(opcode)).collect();
            assert!(missing.is_empty(), "{name} for sm_{} has no {missing:?}", object.target);
            // Local memory: what the compiler could not keep in registers.
            for opcode in ["LDL", "STL"] {
                assert!(!has(opcode), "{name} for sm_{} has {opcode}", object.target);
            }
        }
    }
}

#[test]
fn a_file_is_compiled_once() {
    let Some((compiler, all)) = all() else { return };
    for (source, objects) in all {
        let again = compiler.object(source, &objects[0].target).unwrap();
        assert_eq!(again.path, objects[0].path);
        let image = compiler.image(source, objects).unwrap();
        assert!(std::fs::metadata(image).unwrap().len() > 0);
    }
}
