//! Puts two things into the library: the kernels of `kernels/*.cu`, compiled by nvcc, and in release builds the commit, for
//! run.json. Without git or nvcc the build goes on without them.
//!
//! Release builds compile the kernels if an nvcc is found. Development builds leave them out, because the emulated driver of
//! the tests brings its own, unless `FLANRT_CUDA_ARCHS` names GPUs (`80`, `90,120`, ...; `ptx` for those to come) or
//! `FLANRT_REQUIRE_NVCC=1`, with which a build without kernels is an error.

#[path = "build/nvcc.rs"]
#[allow(dead_code)] // it has two users, who need different parts
mod nvcc;

use std::env;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Embedded by include_dir, which does not say so to cargo.
    println!("cargo::rerun-if-changed=tasks");
    let release = env::var("PROFILE").as_deref() == Ok("release");
    if release {
        commit();
    }
    if let Err(e) = kernels(release) {
        for line in e.lines() {
            println!("cargo::error={line}");
        }
    }
}

/// Development builds leave it out, so that a commit does not compile everything again.
fn commit() {
    for path in [".git/HEAD", ".git/refs/heads"] {
        if Path::new(path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    if let Ok(output) = output
        && output.status.success()
    {
        println!("cargo::rustc-env=FLANRT_BUILD_COMMIT={}", String::from_utf8_lossy(&output.stdout).trim());
    }
}

/// Writes `cuda_images.rs`, which embeds an image for each file of `kernels/`.
fn kernels(release: bool) -> Result<(), String> {
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=kernels");
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "FLANRT_CUDA_ARCHS", "FLANRT_REQUIRE_NVCC"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("no CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("no OUT_DIR")?);
    let (folder, list) = (root.join("kernels"), env::var("FLANRT_CUDA_ARCHS").unwrap_or_default());
    let required = env::var("FLANRT_REQUIRE_NVCC").is_ok_and(|v| v == "1");
    let chosen = chosen(&list)?;
    let nvcc = match release || required || !list.is_empty() {
        true => nvcc::Nvcc::find(&root)?,
        false => None,
    };
    let Some(nvcc) = nvcc else {
        if required {
            return Err(
                "FLANRT_REQUIRE_NVCC=1, but there is no nvcc; `make cuda-toolkit` installs one".into()
            );
        }
        if release || !list.is_empty() {
            println!(
                "cargo::warning=no nvcc: this build will not run on GPUs; `make cuda-toolkit` installs one"
            );
        }
        let images = nvcc::sources(&folder).into_iter().map(|source| (nvcc::stem(&source), None)).collect();
        return embed(&out, images, &[], None);
    };
    let toolkit = nvcc.release().0;
    // target/PROFILE/build/flanrt-HASH/out
    let target = out.ancestors().nth(4).ok_or("OUT_DIR is not where it should be")?;
    let compiler = nvcc::Compiler::new(nvcc, &folder, target)?;
    let jobs = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let mut images = Vec::new();
    for (source, objects) in compiler.all(&chosen, jobs)? {
        let complaints: Vec<_> = objects.iter().flat_map(nvcc::Object::complaints).collect();
        if !complaints.is_empty() {
            return Err(format!("{}:\n{}", source.display(), complaints.join("\n")));
        }
        // A file for a GPU that is not chosen has nothing to be made into an image.
        let image = (!objects.is_empty()).then(|| compiler.image(&source, &objects)).transpose()?;
        images.push((nvcc::stem(&source), image));
    }
    embed(&out, images, &chosen, Some(toolkit))
}

/// The targets that `FLANRT_CUDA_ARCHS` names, or all.
fn chosen(list: &str) -> Result<Vec<&'static str>, String> {
    if list.trim().is_empty() {
        return Ok(nvcc::TARGETS.to_vec());
    }
    let known = |name: &str| {
        nvcc::TARGETS.into_iter().find(|t| *t == name).ok_or_else(|| {
            format!("FLANRT_CUDA_ARCHS: unknown {name:?}; there are {}", nvcc::TARGETS.join(", "))
        })
    };
    list.split([',', ' ']).map(str::trim).filter(|name| !name.is_empty()).map(known).collect()
}

fn embed(
    out: &Path,
    images: Vec<(String, Option<PathBuf>)>,
    chosen: &[&str],
    toolkit: Option<u32>,
) -> Result<(), String> {
    let names: Vec<_> =
        chosen.iter().map(|c| if *c == "ptx" { "ptx".into() } else { format!("sm_{c}") }).collect();
    let mut code = format!(
        "/// An image for each file of `kernels/`.\npub static IMAGES: [Image; {}] = [\n",
        images.len()
    );
    for (stem, path) in images {
        let bytes = match path {
            Some(path) => format!("&Aligned(*include_bytes!({path:?})).0"),
            None => format!("&Aligned(*b\"FLANRT-EMU {stem}\\0\").0"),
        };
        writeln!(code, "    Image {{ stem: {stem:?}, bytes: {bytes} }},").map_err(|e| e.to_string())?;
    }
    code += "];\n";
    code += &format!(
        "/// What the kernels were compiled for; empty in a build without them.\npub const ARCHS: &[&str] = &{names:?};\n"
    );
    code += &format!(
        "/// Major release of the toolkit that compiled them: the driver must know it.\npub(super) const TOOLKIT: Option<u32> = {toolkit:?};\n"
    );
    let path = out.join("cuda_images.rs");
    // Left alone where nothing changed: then nothing is compiled again.
    match std::fs::read_to_string(&path).is_ok_and(|old| old == code) {
        true => Ok(()),
        false => std::fs::write(&path, code).map_err(|e| format!("cannot write {}: {e}", path.display())),
    }
}
