//! Is the shape of the code intact? Reads the sources and holds who may know whom.
//!
//! Every path that begins with `crate::` (or `super::` out of a top module) and every name of a guarded crate counts,
//! wherever it stands, not only in `use` lines. Tests at the foot of a file may use what they need.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// For every top module those of the same crate that it may name. `cli` stands above all and may name any.
const KNOWS: [(&str, &[&str]); 26] = [
    ("error", &[]),
    ("tensor", &[]),
    ("clock", &[]),
    ("rng", &[]),
    ("progress", &["error"]),
    ("disk", &["error"]),
    ("jsonl", &["disk", "error"]),
    ("ops", &["tensor", "error"]),
    ("arena", &["ops", "tensor", "error"]),
    ("cpu", &["ops", "tensor", "error"]),
    ("cuda", &["ops", "tensor", "error"]),
    ("dist", &["ops", "tensor", "error"]),
    ("model", &["ops", "arena", "tensor", "error", "rng"]),
    ("text", &["error"]),
    ("data", &["ops", "text", "disk", "error", "rng"]),
    ("weights", &["model", "text", "ops", "arena", "tensor", "disk", "error"]),
    ("world", &["rng", "error"]),
    ("metrics", &[]),
    ("hub", &["disk", "error"]),
    ("experiment", &["metrics", "rng"]),
    ("report", &["error"]),
    ("flan", &["data", "text", "score", "metrics", "world", "disk", "rng", "error"]),
    ("score", &["model", "text", "weights", "ops", "arena", "tensor", "disk", "error"]),
    (
        "train",
        &[
            "model", "data", "weights", "dist", "ops", "arena", "tensor", "disk", "jsonl", "progress",
            "clock", "rng", "error",
        ],
    ),
    ("lib", &[]),
    ("main", &["cli"]),
];

/// Crates that only these modules may name.
const GUARDED: [(&str, &[&str]); 15] = [
    ("resvg", &["report"]),
    ("notosans", &["report"]),
    ("cudarc", &["cuda", "dist"]),
    ("safetensors", &["weights"]),
    ("memmap2", &["weights", "data", "cpu"]),
    ("tokenizers", &["text"]),
    ("minijinja", &["text", "flan"]),
    ("minijinja_contrib", &["text", "flan"]),
    ("clap", &["cli"]),
    ("csv", &["data"]),
    ("parquet", &["data"]),
    ("ureq", &["hub"]),
    ("sha2", &["hub"]),
    ("indicatif", &["progress"]),
    ("signal_hook", &["cli"]),
];

/// Files of `cpu/` that are not an op family: what several families share.
const CPU_SHARED: [&str; 3] = ["gemm", "rows", "simd"];

/// The same of `cuda/`.
const CUDA_SHARED: [&str; 7] = ["driver", "graph", "images", "launch", "rows", "time", "transfer"];

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// One source file: its path below src/, its top module and its code without comments and tests.
struct Source {
    path: PathBuf,
    top: String,
    /// How many modules deep it is: 1 for `src/x.rs` and `src/x/mod.rs`, 2 for `src/x/y.rs`.
    depth: usize,
    text: String,
    code: String,
}

fn sources() -> Vec<Source> {
    fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => walk(&path, out),
                false if path.extension().is_some_and(|e| e == "rs") => out.push(path),
                false => {}
            }
        }
    }
    let mut paths = Vec::new();
    walk(&src(), &mut paths);
    paths.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(src()).unwrap().to_path_buf();
        let parts: Vec<String> =
            path.with_extension("").iter().map(|p| p.to_str().unwrap().to_owned()).collect();
        let depth = parts.len() - usize::from(parts.last().is_some_and(|p| p == "mod"));
        Source { code: code(&text), top: parts[0].clone(), path, depth, text }
    };
    paths
        .into_iter()
        .filter(|p| !p.file_stem().is_some_and(|s| s.to_string_lossy().ends_with("_tests")))
        .map(read)
        .collect()
}

/// The text without comments, strings and everything from the tests on, lines kept.
fn code(text: &str) -> String {
    let mut out = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let next = lines.peek().map_or("", |l| l.trim_start());
        if line.starts_with("#[cfg(test)]") && (next.contains("mod ") && next.ends_with('{')) {
            break;
        }
        if line.starts_with("#[cfg(test)]") {
            lines.next();
            out.push('\n');
            continue;
        }
        let mut quoted = false;
        let mut before = ' ';
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\\' if quoted => drop(chars.next()),
                // A quotation mark as a character is no string.
                '"' if before != '\'' => quoted = !quoted,
                '/' if !quoted && chars.peek() == Some(&'/') => break,
                c if !quoted => out.push(c),
                _ => {}
            }
            before = c;
        }
        out.push('\n');
    }
    out
}

fn word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The modules named after every `prefix` in `code`, with their lines: `prefix{a, b::c}` names `a` and `b`.
fn named(code: &str, prefix: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| word(c) || c == ':') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + prefix.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.push((rest.chars().take_while(|c| word(*c)).collect(), line));
            continue;
        };
        let (mut depth, mut start) = (0, true);
        let mut name = String::new();
        for c in group.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => (start, name) = (true, String::new()),
                c if depth == 0 && start && word(c) => name.push(c),
                c if depth == 0 && !name.is_empty() && (c == ':' || c.is_whitespace()) => start = false,
                _ => {}
            }
            if !name.is_empty() && !found.contains(&(name.clone(), line)) {
                // The last and longest form of a name is the one that counts.
                if let Some(last) = found.last_mut().filter(|(n, l)| *l == line && name.starts_with(&**n)) {
                    last.0.clone_from(&name);
                } else {
                    found.push((name.clone(), line));
                }
            }
        }
    }
    found
}

#[test]
fn the_reader_of_paths_reads() {
    let found = |code: &str| named(code, "crate::").into_iter().map(|(n, _)| n).collect::<Vec<_>>();
    assert_eq!(found("use crate::a::b;\nlet x = crate::c::d();"), ["a", "c"]);
    assert_eq!(found("use crate::{a, b::{c, d}, e};"), ["a", "b", "e"]);
    assert_eq!(found("pub(crate) fn x() {} mycrate::y; a::crate::z"), [""; 0]);
    let text =
        "let a = \"crate::x\"; // crate::y\nlet b = '\"'; crate::z;\n#[cfg(test)]\nmod tests {\ncrate::t\n}";
    assert_eq!(found(&code(text)), ["z"]);
}

#[test]
fn modules_know_only_what_stands_below_them() {
    let knows = BTreeMap::from(KNOWS);
    let tops: BTreeSet<String> = sources().iter().map(|s| s.top.clone()).collect();
    let mut wrong = Vec::new();
    for s in sources().iter().filter(|s| s.top != "cli") {
        let Some(allowed) = knows.get(s.top.as_str()) else {
            wrong.push(format!("{}: the module {} has no line in KNOWS", s.path.display(), s.top));
            continue;
        };
        let up = "super::".repeat(s.depth);
        for (name, line) in named(&s.code, "crate::").into_iter().chain(named(&s.code, &up)) {
            let own = name == s.top || !tops.contains(&name);
            if !own && !allowed.contains(&name.as_str()) {
                wrong.push(format!("src/{}:{line}: {} may not name {name}", s.path.display(), s.top));
            }
        }
        // The program is its library's first user.
        for (name, line) in named(&s.code, "flanrt::") {
            if s.top != "main" || !allowed.contains(&name.as_str()) {
                wrong.push(format!("src/{}:{line}: {} may not name {name}", s.path.display(), s.top));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn crates_stay_where_they_belong() {
    let mut wrong = Vec::new();
    for s in sources() {
        for (name, allowed) in GUARDED {
            let mut lines = Vec::new();
            for form in [format!("{name}::"), format!("{name} as "), format!("{name};")] {
                lines.extend(named(&s.code, &form).into_iter().map(|(_, line)| line));
            }
            if let Some(line) = lines.first().filter(|_| !allowed.contains(&s.top.as_str())) {
                wrong.push(format!("src/{}:{line}: only {allowed:?} may name {name}", s.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn data_knows_batches_but_no_device_and_the_backend_is_chosen_once() {
    let mut chosen = Vec::new();
    for s in sources() {
        if ["data", "flan"].contains(&s.top.as_str()) {
            for (name, line) in named(&s.code, "crate::ops::") {
                assert!(
                    ["forest", "Batch", "Segment"].contains(&name.as_str()),
                    "src/{}:{line}: data may name ops::forest only, not {name}",
                    s.path.display()
                );
            }
        }
        if !["cpu", "cuda"].contains(&s.top.as_str()) {
            for backend in ["Cpu::new(", "Cuda::new("] {
                chosen.extend(s.code.match_indices(backend).map(|_| (backend, s.path.clone())));
            }
        }
    }
    // `doctor` looks at every GPU there is, whatever was chosen.
    chosen.retain(|(backend, path)| *backend != "Cuda::new(" || !path.ends_with("cli/doctor.rs"));
    assert_eq!(chosen.len(), 2, "backends are made in {chosen:?}");
    assert!(chosen.iter().all(|(_, path)| path.ends_with("cli/device.rs")), "{chosen:?}");
}

#[test]
fn an_op_has_the_same_stem_everywhere() {
    let all = sources();
    let stems = |folder: &str| -> BTreeSet<String> {
        let of = |s: &Source| s.path.file_stem().unwrap().to_str().unwrap().to_owned();
        all.iter().filter(|s| s.top == folder).map(of).collect()
    };
    let mut ops = stems("ops");
    // The batch is not an op: it is the same on every device.
    assert!(ops.remove("forest"));
    for (backend, shared) in [("cpu", &CPU_SHARED[..]), ("cuda", &CUDA_SHARED)] {
        let mut files = stems(backend);
        for shared in shared {
            assert!(
                files.remove(*shared),
                "src/{backend}/{shared}.rs is gone: take it out of the list of shared files"
            );
        }
        assert_eq!(ops, files, "src/ops and src/{backend} differ");
    }
    // Memory moves bytes and has no kernels of its own.
    let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let kernels = std::fs::read_dir(src().with_file_name("kernels")).unwrap().map(|e| e.unwrap().path());
    for name in kernels.filter(|p| p.extension().is_some_and(|e| e == "cu")).map(stem) {
        let family = name.split('_').next().unwrap();
        assert!(ops.contains(family), "kernels/{name}.cu is of no op family");
    }
}

#[test]
fn every_file_says_what_it_holds() {
    for s in sources() {
        assert!(s.text.starts_with("//! "), "src/{} does not open with //!", s.path.display());
    }
}
