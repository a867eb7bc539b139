//! What the tests of the program share: running it, the assets, a tiny model of their own, folders as they were.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The folder of models and data, if it is there.
pub(crate) fn assets() -> Option<PathBuf> {
    let dir = std::env::var_os("FLANRT_TEST_ASSETS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    if dir.join("models").is_dir() {
        return Some(dir.canonicalize().unwrap());
    }
    println!("skipped: no test assets in {} (set FLANRT_TEST_ASSETS)", dir.display());
    None
}

/// The path of a real model.
pub(crate) fn model(assets: &Path, name: &str) -> String {
    text(&assets.join("models").join(name))
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// How a process ended.
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    /// Runs `command` to its end.
    pub(crate) fn of(mut command: Command) -> Self {
        let done = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: done.status.code(), out: text(done.stdout), err: text(done.stderr) }
    }
    /// The run, which must have succeeded.
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.out, self.err);
        self
    }
    /// The run, which must have ended with `code`.
    pub(crate) fn fails(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self
    }
    /// What it printed, which must be one line of JSON.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.out.lines().count(), 1, "{}", self.out);
        serde_json::from_str(&self.out).unwrap()
    }
}

/// A place to run the program in, with its own token cache beside it.
pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
    cache: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), cache: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub(crate) fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.read(name)).unwrap()
    }

    /// The program with the user's own settings kept out.
    pub(crate) fn command<S: AsRef<str>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flanrt"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("FLANRT_") {
                command.env_remove(name);
            }
        }
        command.env("FLANRT_CACHE", self.cache.path()).current_dir(self.dir.path());
        command.args(args.iter().map(AsRef::as_ref)).stdin(Stdio::null());
        command
    }

    pub(crate) fn run<S: AsRef<str>>(&self, args: &[S]) -> Run {
        Run::of(self.command(args))
    }

    /// Starts the program and gives it `signal` once `ready`, for example when a file has appeared. Returns how it ended;
    /// `None` as its code where the signal killed it. It is a failure if it ends before.
    pub(crate) fn signalled<S: AsRef<str>>(
        &self,
        args: &[S],
        signal: rustix::process::Signal,
        ready: impl Fn() -> bool,
    ) -> Run {
        let mut command = self.command(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = child.stdout.take().unwrap();
        let err = child.stderr.take().unwrap();
        let readers = [drain(out), drain(err)];
        let begun = Instant::now();
        while !ready() {
            assert!(
                child.try_wait().unwrap().is_none(),
                "it ended before the signal: {args:?}",
                args = args.len()
            );
            assert!(begun.elapsed() < Duration::from_secs(120), "never ready for the signal");
            std::thread::sleep(Duration::from_millis(1));
        }
        send(&child, signal);
        let code = child.wait().unwrap().code();
        let [out, err] = readers.map(|r| r.join().unwrap());
        Run { code, out, err }
    }
}

fn send(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
}

fn drain(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        from.read_to_string(&mut text).unwrap();
        text
    })
}

/// Every file below `dir` with a hash of its content, folders as `None`.
pub(crate) fn snapshot(dir: &Path) -> BTreeMap<String, Option<blake3::Hash>> {
    fn walk(dir: &Path, root: &Path, out: &mut BTreeMap<String, Option<blake3::Hash>>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = text(path.strip_prefix(root).unwrap());
            if path.is_dir() {
                out.insert(name, None);
                walk(&path, root, out);
            } else {
                out.insert(name, Some(blake3::hash(&std::fs::read(&path).unwrap())));
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(dir, dir, &mut out);
    out
}

/// A folder with a model of 61 ids that needs no assets: the weights of a fixture, and a tokenizer of single characters.
pub(crate) fn tiny_model(dir: &Path) {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama-gqa");
    std::fs::create_dir_all(dir).unwrap();
    for name in ["config.json", "generation_config.json", "model.safetensors"] {
        std::fs::copy(fixture.join(name), dir.join(name)).unwrap();
    }
    std::fs::write(dir.join("tokenizer.json"), tokenizer("").to_string()).unwrap();
    let config = json!({"bos_token": "<s>", "eos_token": "</s>"});
    std::fs::write(dir.join("tokenizer_config.json"), config.to_string()).unwrap();
}

/// A tokenizer of single characters, BOS in front; `more` are characters besides the usual 44.
pub(crate) fn tokenizer(more: &str) -> Value {
    let mut vocab = serde_json::Map::new();
    for piece in ["<unk>", "<s>", "</s>"] {
        vocab.insert(piece.into(), vocab.len().into());
    }
    for c in ('a'..='z').chain('0'..='9').chain(" \n.,?:!'".chars()).chain(more.chars()) {
        vocab.insert(c.to_string(), vocab.len().into());
    }
    let special = |id: u32, text: &str| {
        json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": []}
    })
}

/// The first `n` rows of a data set, each as JSON.
pub(crate) fn rows(assets: &Path, name: &str, n: usize) -> Vec<Value> {
    let bytes = std::fs::read(assets.join("data").join(name).join("train.jsonl.gz")).unwrap();
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
    text.lines().take(n).map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// JSON lines.
pub(crate) fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}
