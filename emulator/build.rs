//! Compiles the emulator and the kernels of `../kernels` with the host's g++ into shared libraries that stand in for the
//! CUDA driver: `OUT_DIR/{plain,checked}/libcuda.so`, the same with the kernels of `tests/kernels` in `test-plain` and
//! `test-checked`, and with those of `../tests/conformance` in `conformance`. The checked ones have their kernels' memory
//! accesses instrumented (g++'s thread sanitizer calls hooks, which the emulator defines).
//!
//! Objects are kept in the target folder by a hash of all they depend on, so that a changed kernel compiles one file a mode.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::{env, fs};

/// Processes at a time: an optimised kernel file can take much memory.
const PARALLEL: usize = 2;

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let kernels = here.join("../kernels").canonicalize().expect("the kernels lie beside the emulator");
    let test_kernels = here.join("tests/kernels");
    let conformance = here.join("../tests/conformance").canonicalize().expect("its kernels lie there");
    for folder in [&here.join("include"), &here.join("src"), &kernels, &test_kernels, &conformance] {
        println!("cargo::rerun-if-changed={}", folder.display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CXX");

    let compiler = match Compiler::find() {
        Ok(compiler) => compiler,
        Err(reason) => {
            println!("cargo::warning=the CUDA emulator is left out of this build: {reason}");
            println!("cargo::rustc-env=EMULATOR_MISSING={reason}");
            println!("cargo::rustc-env=EMULATOR_LIBRARIES=");
            return;
        }
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let core = files(&here.join("src"), "cpp");
    let includes = [here.join("include"), kernels.clone()];
    let mut headers = files(&includes[0], "h");
    headers.extend(files(&here.join("src"), "h"));
    headers.extend(files(&kernels, "cuh"));
    let mut jobs = Vec::new();
    for checked in [false, true] {
        let core = core.iter().map(|source| Job { source: source.clone(), kernel: false, checked });
        jobs.extend(core);
        let folders = [Some(&kernels), Some(&test_kernels), (!checked).then_some(&conformance)];
        for folder in folders.into_iter().flatten() {
            jobs.extend(files(folder, "cu").into_iter().map(|source| Job { source, kernel: true, checked }));
        }
    }
    let cache =
        out.ancestors().nth(4).expect("OUT_DIR lies deep in the target folder").join("emulator-objects");
    fs::create_dir_all(&cache).expect("the object cache can be made");
    let objects = compiler.compile(&jobs, &includes, &contents(&headers), &cache);

    for (folder, checked, kernels) in [
        ("plain", false, &kernels),
        ("checked", true, &kernels),
        ("test-plain", false, &test_kernels),
        ("test-checked", true, &test_kernels),
        ("conformance", false, &conformance),
    ] {
        let wanted = jobs.iter().zip(&objects).filter(|(job, _)| {
            job.checked == checked && (!job.kernel || job.source.parent() == Some(kernels))
        });
        compiler.link(&out.join(folder), wanted.map(|(_, object)| object.as_path()));
    }
    println!("cargo::rustc-env=EMULATOR_LIBRARIES={}", out.display());
    println!("cargo::rustc-env=EMULATOR_MISSING=");
}

/// One source to compile.
struct Job {
    source: PathBuf,
    kernel: bool,
    checked: bool,
}

struct Compiler {
    program: String,
    version: String,
    native: Vec<&'static str>,
}

impl Compiler {
    fn find() -> Result<Compiler, String> {
        let target = env::var("TARGET").unwrap_or_default();
        if !target.starts_with("x86_64") || !target.contains("linux-gnu") {
            return Err(format!("it runs on x86-64 Linux with glibc, not on {target}"));
        }
        let program = env::var("CXX").unwrap_or_else(|_| "g++".into());
        let output = Command::new(&program)
            .arg("--version")
            .output()
            .map_err(|error| format!("{program} does not run ({error}); install g++ or name it with CXX"))?;
        let version = String::from_utf8_lossy(&output.stdout).into_owned();
        // Other compilers turn copies of structs into calls that the checker does not see.
        if !output.status.success() || !version.contains("Free Software Foundation") {
            return Err(format!("{program} is not g++; install g++ or name it with CXX"));
        }
        // The libraries run where they are built: conversions of half precision are much faster with the instructions for it.
        let wide = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("fma");
        Ok(Compiler { program, version, native: if wide { vec!["-march=x86-64-v3"] } else { vec![] } })
    }

    fn flags(&self, job: &Job) -> Vec<&'static str> {
        // nvcc has no rules about types that alias and no fused multiply-adds that the emulator could imitate.
        let mut flags = vec![
            "-std=c++17",
            "-O2",
            "-g1",
            "-fPIC",
            "-pthread",
            "-fvisibility=hidden",
            "-fno-strict-aliasing",
            "-ffp-contract=off",
            "-DFLANRT_EMULATE",
        ];
        flags.extend(&self.native);
        flags.extend(if job.kernel { &["-w", "-Wno-psabi", "-xc++"][..] } else { &["-Wall", "-Wextra"] });
        if job.checked {
            flags.push("-DEMU_CHECK");
            if job.kernel {
                flags.extend(["-fsanitize=thread", "--param", "tsan-distinguish-volatile=0"]);
            }
        }
        flags
    }

    /// The object of every job, compiled or found in the cache.
    fn compile(&self, jobs: &[Job], includes: &[PathBuf], headers: &[u8], cache: &Path) -> Vec<PathBuf> {
        let objects: Vec<PathBuf> = jobs
            .iter()
            .map(|job| {
                let mut hash = DefaultHasher::new();
                let source = fs::read(&job.source).expect("a source that was listed can be read");
                (&self.program, &self.version, self.flags(job), headers, source).hash(&mut hash);
                let stem = job.source.file_stem().expect("a source has a name").to_string_lossy();
                cache.join(format!("{stem}-{:016x}.o", hash.finish()))
            })
            .collect();
        let queue = Mutex::new(jobs.iter().zip(&objects).filter(|(_, object)| !object.exists()));
        std::thread::scope(|scope| {
            for _ in 0..PARALLEL {
                scope.spawn(|| {
                    loop {
                        let next = queue.lock().expect("no compilation panics with the lock").next();
                        let Some((job, object)) = next else { break };
                        // Written aside and renamed: builds may run side by side.
                        let aside = object.with_extension(format!("{}.tmp", std::process::id()));
                        let mut command = Command::new(&self.program);
                        command
                            .args(self.flags(job))
                            .args(includes.iter().flat_map(|i| [Path::new("-I"), i]));
                        run(command.arg("-c").arg(&job.source).arg("-o").arg(&aside));
                        fs::rename(&aside, object).expect("an object can be put into the cache");
                    }
                });
            }
        });
        objects
    }

    /// `folder/libcuda.so` of the objects. Its soname is what `dlopen("libcuda.so")` looks for among loaded libraries.
    fn link<'a>(&self, folder: &Path, objects: impl Iterator<Item = &'a Path>) {
        fs::create_dir_all(folder).expect("OUT_DIR can be written");
        let library = folder.join("libcuda.so");
        let mut command = Command::new(&self.program);
        command.args(["-shared", "-pthread", "-Wl,-soname,libcuda.so", "-Wl,-z,defs", "-o"]).arg(&library);
        run(command.args(objects).arg("-ldl"));
        let versioned = folder.join("libcuda.so.1");
        if fs::symlink_metadata(&versioned).is_err() {
            std::os::unix::fs::symlink("libcuda.so", &versioned).expect("OUT_DIR can hold links");
        }
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed:\n{text}");
    for line in text.lines() {
        println!("cargo::warning={line}");
    }
}

/// Files of a folder with an extension, by name.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    found.retain(|path| path.extension().is_some_and(|e| e == extension));
    found.sort();
    found
}

fn contents(paths: &[PathBuf]) -> Vec<u8> {
    paths.iter().flat_map(|path| fs::read(path).expect("a header that was listed can be read")).collect()
}
