//! The directory of a training run: run.json, config.toml, data lists, metrics and logs.
//!
//! ```text
//! run.json                who, what, when, how it ended; rewritten as a whole
//! config.toml             the resolved configuration
//! data/manifest.json      sources and counts       data/dropped.jsonl  rows not used, with reasons
//! metrics.jsonl           one object per log step  log.jsonl           messages
//! checkpoints/            step-000200/ and so on, see `steps`
//! ```
//! One process at a time writes to a run (a lock says so). What checkpoints contain is not here.

use crate::clock::utc_now;
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::jsonl::JsonLines;
use serde_json::{Map, Value, json};
use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

const RUN: &str = "run.json";
const LOCK: &str = ".flanrt-lock";

/// What run.json says about how a run was started.
#[derive(Clone, Debug)]
pub struct Info {
    /// The command line.
    pub argv: Vec<String>,
    /// The device as the user would name it.
    pub device: String,
    /// Number of CPU threads.
    pub threads: usize,
    /// The user's seed.
    pub seed: u64,
}

/// How a run stands; its name in run.json is the lower-case variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Going on, or killed: see whether the directory is locked.
    Running,
    /// Did all its steps.
    Finished,
    /// Stopped by a signal or a time limit after saving a checkpoint.
    Stopped,
    /// Ended with an error.
    Failed,
    /// Interrupted before there was anything to save.
    Interrupted,
}

impl Status {
    /// The name in run.json.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
        }
    }
}

/// What is at a path that a run is to use.
#[derive(Debug)]
pub enum Found {
    /// Nothing, or an empty folder.
    Nothing,
    /// A run, with the content of its run.json.
    Run(Map<String, Value>),
    /// Something that is no run: the name of one of its files, or of the path itself if it is no folder.
    Foreign(String),
}

/// The directory of a run that this process writes.
pub struct RunDir {
    root: PathBuf,
    run: Map<String, Value>,
    pub(super) metrics: JsonLines,
    log: JsonLines,
    _lock: File,
}

impl RunDir {
    /// `parent/<name>-<UTC date and time>`, with a number behind it if that is taken.
    pub fn fresh_path(parent: &Path, name: &str) -> PathBuf {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
        let name: String = name.trim_matches(['/', '.']).chars().map(plain).collect();
        let name =
            format!("{name}-{}", utc_now().replace(['-', ':'], "").replace('T', "-").trim_end_matches('Z'));
        let numbered = (2..).map(|n| parent.join(format!("{name}-{n}")));
        let mut candidates = std::iter::once(parent.join(&name)).chain(numbered);
        candidates.find(|path| path.symlink_metadata().is_err()).unwrap_or_else(|| parent.join(name))
    }

    /// What is at `path` now.
    pub fn look(path: &Path) -> Result<Found> {
        let io_error = |e: std::io::Error| Error::io(Kind::Disk, "read the folder", path, &e);
        if path.symlink_metadata().is_err() {
            return Ok(Found::Nothing);
        }
        if !path.is_dir() {
            return Ok(Found::Foreign(path.display().to_string()));
        }
        let file = path.join(RUN);
        if file.exists() {
            let bytes = fs::read(&file).map_err(|e| Error::io(Kind::Disk, "read", &file, &e))?;
            return serde_json::from_slice(&bytes).map(Found::Run).map_err(|e| {
                Error::disk(format!("{}: not the description of a run: {e}", file.display()))
                    .fix("give another --out")
            });
        }
        for entry in fs::read_dir(path).map_err(io_error)? {
            let name = entry.map_err(io_error)?.file_name().to_string_lossy().into_owned();
            if !name.starts_with(".flanrt-") {
                return Ok(Found::Foreign(name));
            }
        }
        Ok(Found::Nothing)
    }

    /// The error of starting a new run in `path` where there is something already.
    pub fn refuse(path: &Path) -> Result<()> {
        let at = path.display();
        match Self::look(path)? {
            Found::Nothing => {}
            Found::Run(run) => {
                let text = |key: &str| run.get(key).and_then(Value::as_str).unwrap_or("unknown").to_owned();
                let (status, started) = (text("status"), text("started"));
                return Err(Error::disk(format!(
                    "{at} already holds a run (status {status}, started {started})"
                ))
                .fix(format!("continue it with --resume {at}, or give another --out")));
            }
            Found::Foreign(name) => {
                return Err(Error::disk(format!(
                    "{at} is not empty and holds no run of flanrt (found {name})"
                ))
                .fix("give another --out"));
            }
        }
        Ok(())
    }

    /// Starts a new run in `path`, which must be empty or not there.
    pub fn create(path: &Path, info: &Info) -> Result<Self> {
        Self::refuse(path)?;
        let run = json!({
            "schema_version": 1,
            "argv": info.argv,
            "version": env!("CARGO_PKG_VERSION"),
            "commit": option_env!("FLANRT_BUILD_COMMIT"),
            "device": info.device,
            "threads": info.threads,
            "seed": info.seed,
            "started": utc_now(),
            "ended": null,
            "status": Status::Running.name(),
            "exit_code": null,
            "weights_hash": null,
        });
        let Value::Object(run) = run else { unreachable!("an object literal") };
        Self::open(path, run)
    }

    /// Continues the run in `path`, whatever its status, after removing what a killed process left half-written.
    pub fn resume(path: &Path, info: &Info) -> Result<Self> {
        let Found::Run(mut run) = Self::look(path)? else {
            return Err(Error::disk(format!("{}: no run to resume: no {RUN} there", path.display()))
                .fix("give the directory of a run, the one that holds run.json"));
        };
        let resumes = run.entry("resumes").or_insert_with(|| json!([]));
        if let Value::Array(resumes) = resumes {
            resumes.push(json!({"at": utc_now(), "argv": info.argv, "version": env!("CARGO_PKG_VERSION")}));
        }
        run.insert("status".into(), Status::Running.name().into());
        run.insert("ended".into(), Value::Null);
        run.insert("exit_code".into(), Value::Null);
        Self::open(path, run)
    }

    fn open(root: &Path, run: Map<String, Value>) -> Result<Self> {
        for folder in [root.to_path_buf(), root.join("data"), root.join("checkpoints")] {
            disk::ensure_writable_dir(&folder)?;
        }
        let lock = lock(root)?;
        for folder in [root.to_path_buf(), root.join("data"), root.join("checkpoints")] {
            disk::clean_leftovers(&folder)?;
        }
        let opened = Self {
            root: root.to_path_buf(),
            run,
            metrics: JsonLines::open(&root.join("metrics.jsonl"))?,
            log: JsonLines::open(&root.join("log.jsonl"))?,
            _lock: lock,
        };
        opened.write_run()?;
        Ok(opened)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// A value of run.json.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.run.get(key)
    }

    /// Sets a value of run.json, of any key, and writes it.
    pub fn set(&mut self, key: &str, value: Value) -> Result<()> {
        self.run.insert(key.to_owned(), value);
        self.write_run()
    }

    /// Says how the run ended. `weights_hash` is that of the final weights, if there are any.
    pub fn finish(&mut self, status: Status, exit_code: u8, weights_hash: Option<&str>) -> Result<()> {
        let ending: [(&str, Value); 4] = [
            ("ended", utc_now().into()),
            ("status", status.name().into()),
            ("exit_code", exit_code.into()),
            ("weights_hash", weights_hash.into()),
        ];
        self.run.extend(ending.map(|(key, value)| (key.to_owned(), value)));
        self.metrics.sync()?;
        self.log.sync()?;
        self.write_run()
    }

    /// Writes config.toml.
    pub fn write_config(&self, toml: &str) -> Result<()> {
        disk::write_atomic(&self.root.join("config.toml"), toml.as_bytes())
    }

    /// Writes data/manifest.json.
    pub fn write_data_manifest(&self, manifest: &Value) -> Result<()> {
        disk::write_atomic(&self.root.join("data/manifest.json"), &pretty(manifest)?)
    }

    /// Writes data/dropped.jsonl, one line per row that is not used.
    pub fn write_dropped(&self, rows: impl IntoIterator<Item = Value>) -> Result<()> {
        disk::write_atomic_with(&self.root.join("data/dropped.jsonl"), |out| {
            rows.into_iter().try_for_each(|row| writeln!(out, "{row}"))
        })
    }

    /// Adds one object to metrics.jsonl, with `schema_version` before its own keys.
    pub fn metrics(&mut self, record: Map<String, Value>) -> Result<()> {
        let mut line = Map::from_iter([("schema_version".to_owned(), 1.into())]);
        line.extend(record);
        self.metrics.append(&line)
    }

    /// Drops the metrics of steps after `step`, which a resumed run does again. Returns how many lines went.
    pub fn truncate_after(&mut self, step: u64) -> Result<usize> {
        self.metrics.retain(|record| record["step"].as_u64().is_none_or(|at| at <= step))
    }

    /// Adds a message to log.jsonl.
    pub fn log(&mut self, level: &str, message: &str) -> Result<()> {
        self.log.append(&json!({"time": utc_now(), "level": level, "message": message}))
    }

    fn write_run(&self) -> Result<()> {
        disk::write_atomic(&self.root.join(RUN), &pretty(&self.run)?)
    }
}

fn pretty(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|e| Error::internal(format!("JSON: {e}")))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Takes the lock of a run; the system drops it when the process ends, however it ends.
fn lock(root: &Path) -> Result<File> {
    let path = root.join(LOCK);
    let options = File::options().create(true).write(true).truncate(false).open(&path);
    let file = options.map_err(|e| Error::io(Kind::Disk, "create", &path, &e))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            Err(Error::disk(format!("{}: another process is writing to this run", root.display()))
                .fix("wait for it to end, or give another --out"))
        }
        // Some network file systems have no locks; that alone should not stop a run.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> Info {
        Info {
            argv: vec!["flanrt".into(), "finetune".into()],
            device: "cpu".into(),
            threads: 2,
            seed: u64::MAX,
        }
    }

    fn read(path: &Path) -> Value {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn a_run_is_described_from_start_to_end_and_resumed() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("runs/x");
        let mut run = RunDir::create(&path, &info()).unwrap();
        run.set("note", json!({"a": 1})).unwrap();
        let on_disk = read(&path.join("run.json"));
        assert_eq!((&on_disk["status"], &on_disk["seed"]), (&json!("running"), &json!(u64::MAX)));
        run.write_config("a = 1\n").unwrap();
        run.write_data_manifest(&json!({"rows": 3})).unwrap();
        run.write_dropped([json!({"row": 1}), json!({"row": 2})]).unwrap();
        run.log("warn", "careful").unwrap();
        assert_eq!(
            fs::read_to_string(path.join("data/dropped.jsonl")).unwrap(),
            "{\"row\":1}\n{\"row\":2}\n"
        );

        let e = RunDir::resume(&path, &info()).err().unwrap();
        assert!(e.kind == Kind::Disk && e.message.contains("another process"), "{e}");
        run.finish(Status::Stopped, 75, None).unwrap();
        drop(run);
        let mut run = RunDir::resume(&path, &info()).unwrap();
        assert_eq!(run.get("status"), Some(&json!("running")));
        run.finish(Status::Finished, 0, Some("abc")).unwrap();
        let on_disk = read(&path.join("run.json"));
        for (key, value) in [
            ("status", json!("finished")),
            ("exit_code", json!(0)),
            ("weights_hash", json!("abc")),
            ("note", json!({"a": 1})),
            ("argv", json!(["flanrt", "finetune"])),
        ] {
            assert_eq!(on_disk[key], value);
        }
        assert_eq!(on_disk["resumes"].as_array().unwrap().len(), 1);
        assert_eq!(fs::read_to_string(path.join("log.jsonl")).unwrap().lines().count(), 1);
    }

    #[test]
    fn places_that_hold_something_are_refused_with_the_way_out() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("out");
        let refused = |message: &str, fix: &str| {
            let e = RunDir::create(&path, &info()).err().expect(message);
            assert!(e.kind == Kind::Disk && e.message.contains(message), "{e}");
            assert!(e.fix.as_ref().unwrap().contains(fix), "{e:?}");
        };
        drop(RunDir::create(&path, &info()).unwrap());
        refused("already holds a run (status running", "--resume");
        fs::write(path.join("run.json"), "{").unwrap();
        refused("not the description of a run", "--out");
        fs::remove_file(path.join("run.json")).unwrap();
        refused("holds no run", "another --out");
        fs::remove_dir_all(&path).unwrap();
        fs::write(&path, "").unwrap();
        refused("holds no run", "another --out");
        let e = RunDir::resume(&path, &info()).err().unwrap();
        assert!(e.message.contains("no run to resume"), "{e}");
    }

    #[test]
    fn fresh_names_carry_the_time_and_never_collide() {
        let tmp = tempfile::tempdir().unwrap();
        let mut seen = Vec::new();
        for _ in 0..3 {
            let path = RunDir::fresh_path(tmp.path(), "../a b/c");
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            assert!(name.starts_with("a-b-c-20") && !seen.contains(&path), "{name}");
            drop(RunDir::create(&path, &info()).unwrap());
            seen.push(path);
        }
    }

    #[test]
    fn metrics_of_undone_steps_go() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("m");
        let mut run = RunDir::create(&path, &info()).unwrap();
        for step in 1..=4 {
            let Value::Object(record) = json!({"step": step, "loss": 0.5}) else { panic!() };
            run.metrics(record).unwrap();
        }
        drop(run);
        let mut torn = fs::read(path.join("metrics.jsonl")).unwrap();
        torn.extend(b"{\"step\":5,\"lo");
        fs::write(path.join("metrics.jsonl"), torn).unwrap();
        let mut run = RunDir::resume(&path, &info()).unwrap();
        assert_eq!(run.truncate_after(2).unwrap(), 2);
        let line = |step| format!("{{\"schema_version\":1,\"step\":{step},\"loss\":0.5}}\n");
        assert_eq!(fs::read_to_string(path.join("metrics.jsonl")).unwrap(), line(1) + &line(2));
    }
}
