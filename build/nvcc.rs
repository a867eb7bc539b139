//! nvcc: finding it, and compiling `kernels/*.cu` once for each GPU and content. For `build.rs` and `tests/cuda_images.rs`.
//!
//! Results are kept in `kernels/` of the target folder under a hash of the compiler, its arguments, the source and the headers
//! it includes, so debug, release and test builds share them and a changed file costs those that read it alone.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a portable file is compiled for: machine code of these GPUs, and PTX (`ptx`) for those that come after them.
pub(crate) const TARGETS: [&str; 7] = ["80", "86", "89", "90", "100", "120", "ptx"];

/// End of the stem of files for compute capability 9.0 alone; their code is `sm_90a`, which no other GPU runs.
pub(crate) const HOPPER: &str = "_sm90";

/// A compiler that runs.
pub(crate) struct Nvcc {
    path: PathBuf,
    version: String,
}

impl Nvcc {
    /// The first of: `NVCC`, `bin/nvcc` in `CUDA_HOME`, `CUDA_PATH` or `CUDA_ROOT`, the search path, the usual folder, and
    /// what `make cuda-toolkit` installs below `root`. An error if `NVCC` is set and does not run.
    pub(crate) fn find(root: &Path) -> Result<Option<Self>, String> {
        if let Some(path) = std::env::var_os("NVCC").filter(|v| !v.is_empty()) {
            let path = PathBuf::from(path);
            let place = path.display().to_string();
            return Self::at(path)
                .map(Some)
                .ok_or_else(|| format!("NVCC is {place}, which does not run; unset it or correct it"));
        }
        let homes = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT"].into_iter().filter_map(std::env::var_os);
        let mut places: Vec<PathBuf> = homes.map(|home| Path::new(&home).join("bin/nvcc")).collect();
        places.extend(
            std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).map(|p| p.join("nvcc")),
        );
        places.push("/usr/local/cuda/bin/nvcc".into());
        let installed = root.join(".cuda/lib");
        for python in std::fs::read_dir(installed).into_iter().flatten().flatten() {
            places.push(python.path().join("site-packages/nvidia/cu13/bin/nvcc"));
        }
        Ok(places.into_iter().filter(|path| path.is_file()).find_map(Self::at))
    }

    fn at(path: PathBuf) -> Option<Self> {
        let output = Command::new(&path).arg("--version").output().ok().filter(|o| o.status.success())?;
        Some(Self { path, version: String::from_utf8_lossy(&output.stdout).into_owned() })
    }

    /// Release, e.g. (13, 0).
    pub(crate) fn release(&self) -> (u32, u32) {
        let release =
            self.version.split("release ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or("");
        let (major, minor) = release.split_once('.').unwrap_or((release, ""));
        (major.parse().unwrap_or(0), minor.parse().unwrap_or(0))
    }

    /// A tool of the same toolkit, if it is there.
    pub(crate) fn tool(&self, name: &str) -> Option<PathBuf> {
        let path = self.path.with_file_name(name);
        path.is_file().then_some(path)
    }
}

/// The `.cu` files of a folder, by name.
pub(crate) fn sources(kernels: &Path) -> Vec<PathBuf> {
    files(kernels, "cu")
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<_> =
        entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == extension)).collect();
    found.sort();
    found
}

/// Name of a file without its extension.
pub(crate) fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// What a file is compiled for when all files are for `chosen`.
pub(crate) fn targets<'a>(source: &Path, chosen: &[&'a str]) -> Vec<&'a str> {
    match stem(source).ends_with(HOPPER) {
        true => chosen.iter().filter(|c| **c == "90").map(|_| "90a").collect(),
        false => chosen.to_vec(),
    }
}

/// A file compiled for one target.
pub(crate) struct Object {
    /// As in [`TARGETS`], or `90a`.
    pub(crate) target: String,
    /// A cubin, or PTX.
    pub(crate) path: PathBuf,
    /// What the compiler said, with the resources of every kernel.
    pub(crate) log: String,
}

impl Object {
    /// What must not be: registers that went to memory, and wgmma pipelines that the assembler serialised (C75xx).
    pub(crate) fn complaints(&self) -> Vec<String> {
        let mut kernel = "";
        let mut found = Vec::new();
        for line in self.log.lines() {
            if let Some(name) = line.split("Function properties for ").nth(1) {
                kernel = name.trim();
            }
            let counts =
                line.trim().split(", ").filter(|part| part.contains("stack frame") || part.contains("spill"));
            let spilled =
                line.contains("bytes stack frame") && counts.into_iter().any(|part| !part.starts_with("0 "));
            let serialised =
                line.split("C75").nth(1).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            if spilled || serialised {
                found.push(format!("{kernel} for {}: {}", self.target, line.trim()));
            }
        }
        found
    }
}

/// Compiles, or remembers.
pub(crate) struct Compiler {
    nvcc: Nvcc,
    kernels: PathBuf,
    cache: PathBuf,
}

impl Compiler {
    /// A compiler for the files of `kernels`, with its results kept below `target`.
    pub(crate) fn new(nvcc: Nvcc, kernels: &Path, target: &Path) -> Result<Self, String> {
        let cache = target.join("kernels");
        std::fs::create_dir_all(&cache).map_err(|e| format!("cannot create {}: {e}", cache.display()))?;
        Ok(Self { nvcc, kernels: kernels.into(), cache })
    }

    /// The toolkit.
    pub(crate) fn nvcc(&self) -> &Nvcc {
        &self.nvcc
    }

    /// `source` for `target`.
    pub(crate) fn object(&self, source: &Path, target: &str) -> Result<Object, String> {
        let (kind, arch) = match target {
            "ptx" => ("-ptx", "-arch=compute_80".to_string()),
            target => ("-cubin", format!("-arch=sm_{target}")),
        };
        let args = [kind, &arch, "-std=c++17", "-O3", "-Xptxas", "-v,-warn-spills"];
        let mut parts = vec![self.nvcc.version.clone().into_bytes(), args.join(" ").into_bytes()];
        self.texts(source, &mut Vec::new(), &mut parts)?;
        let path = self.cache.join(format!("{}-{target}-{:032x}", stem(source), hash(&parts)));
        let log = path.with_extension("log");
        if !path.exists() || !log.exists() {
            let part = path.with_extension(format!("{}.part", std::process::id()));
            let mut command = Command::new(&self.nvcc.path);
            command.args(args).arg("-I").arg(&self.kernels).arg(source).arg("-o").arg(&part);
            let said = run(command)?;
            // The object last: where it is, all is.
            std::fs::write(&log, said)
                .and_then(|()| std::fs::rename(&part, &path))
                .map_err(|e| e.to_string())?;
        }
        Ok(Object { target: target.into(), log: String::from_utf8_lossy(&read(&log)?).into_owned(), path })
    }

    /// Appends the text of `file` and of what it includes from the same folder.
    fn texts(&self, file: &Path, seen: &mut Vec<PathBuf>, texts: &mut Vec<Vec<u8>>) -> Result<(), String> {
        if seen.iter().any(|s| s == file) {
            return Ok(());
        }
        seen.push(file.into());
        let text = String::from_utf8_lossy(&read(file)?).into_owned();
        for line in text.lines() {
            let name = line.trim().strip_prefix("#include \"").and_then(|rest| rest.split('"').next());
            // What is not there belongs to another compiler's branch of the file.
            if let Some(header) = name.map(|name| self.kernels.join(name)).filter(|path| path.is_file()) {
                self.texts(&header, seen, texts)?;
            }
        }
        texts.push(text.into_bytes());
        Ok(())
    }

    /// All objects of a file in one image.
    pub(crate) fn image(&self, source: &Path, objects: &[Object]) -> Result<PathBuf, String> {
        let tool = self.nvcc.tool("fatbinary").ok_or("the toolkit has no fatbinary beside its nvcc")?;
        let names: Vec<_> = objects.iter().map(|o| o.path.as_os_str().as_encoded_bytes().to_vec()).collect();
        let path = self.cache.join(format!("{}-{:032x}.fatbin", stem(source), hash(&names)));
        if !path.exists() {
            let part = path.with_extension(format!("{}.part", std::process::id()));
            let mut command = Command::new(tool);
            command.args(["-64", "--compress-mode=size", "--create"]).arg(&part);
            for object in objects {
                let (kind, sm) =
                    if object.target == "ptx" { ("ptx", "80") } else { ("elf", &*object.target) };
                command.arg(format!("--image3=kind={kind},sm={sm},file={}", object.path.display()));
            }
            run(command)?;
            std::fs::rename(&part, &path).map_err(|e| e.to_string())?;
        }
        Ok(path)
    }

    /// Every file for every target that is `chosen`, `jobs` at a time.
    pub(crate) fn all(&self, chosen: &[&str], jobs: usize) -> Result<Vec<(PathBuf, Vec<Object>)>, String> {
        let sources = sources(&self.kernels);
        let tasks: Vec<_> =
            sources.iter().flat_map(|s| targets(s, chosen).into_iter().map(move |t| (s, t))).collect();
        let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..jobs.clamp(1, tasks.len().max(1)) {
                scope.spawn(|| {
                    while let Some((source, target)) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let made = self.object(source, target).map(|object| (*source, object));
                        done.lock().unwrap().push(made);
                    }
                });
            }
        });
        let mut all: Vec<_> = sources.iter().map(|s| (s.clone(), Vec::new())).collect();
        for made in done.into_inner().unwrap() {
            let (source, object) = made?;
            all[sources.iter().position(|s| s == source).unwrap()].1.push(object);
        }
        for (source, objects) in &mut all {
            let order = targets(source, chosen);
            objects.sort_by_key(|o| order.iter().position(|t| *t == o.target));
        }
        Ok(all)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}

/// Runs a tool and returns what it said; an error if it fails.
fn run(mut command: Command) -> Result<Vec<u8>, String> {
    let shown = format!("{command:?}");
    let output = command.output().map_err(|e| format!("cannot run {shown}: {e}"))?;
    let said = [output.stdout, output.stderr].concat();
    match output.status.success() {
        true => Ok(said),
        false => Err(format!("{shown} failed ({}):\n{}", output.status, String::from_utf8_lossy(&said))),
    }
}

/// FNV-1a over the parts and their lengths: the same with every version of the standard library.
fn hash(parts: &[Vec<u8>]) -> u128 {
    let lengths = parts.iter().flat_map(|part| (part.len() as u64).to_le_bytes());
    let bytes = lengths.chain(parts.iter().flatten().copied());
    bytes.fold(0x6c62272e07bb014262b821756295c58d, |h, b| {
        (h ^ u128::from(b)).wrapping_mul(0x0000000001000000000000000000013b)
    })
}
