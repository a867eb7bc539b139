//! The checkpoint folders of a run: `checkpoints/step-000200` and the small file `latest` that names the newest.
//!
//! A folder with such a name is complete: it was filled elsewhere and renamed. It can still be damaged later, so
//! resuming verifies hashes and falls back to the one before. What a checkpoint contains is not here.

use super::rundir::RunDir;
use crate::disk;
use crate::error::{Error, Kind, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The checkpoint to resume from, and what had to be passed over to get there.
#[derive(Debug, Default)]
pub struct Latest {
    /// Its step and folder; `None` when there is no good checkpoint.
    pub found: Option<(u64, PathBuf)>,
    /// One line for each newer checkpoint that is damaged.
    pub warnings: Vec<String>,
}

impl RunDir {
    /// Writes the checkpoint of `step` by `fill`, points `latest` to it and removes all but the newest `keep`.
    pub fn save_checkpoint(
        &mut self,
        step: u64,
        keep: usize,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        self.metrics.sync()?; // a checkpoint never knows more than the metrics beside it
        let dir = self.steps().join(name(step));
        disk::write_dir_atomic(&dir, fill)?;
        disk::write_atomic(&self.steps().join("latest"), format!("{}\n", name(step)).as_bytes())?;
        self.prune(keep)?;
        Ok(dir)
    }

    /// All checkpoints by step, oldest first.
    pub fn checkpoints(&self) -> Result<Vec<(u64, PathBuf)>> {
        let dir = self.steps();
        let io_error = |e: std::io::Error| Error::io(Kind::Disk, "read the folder", &dir, &e);
        let mut found = Vec::new();
        for entry in fs::read_dir(&dir).map_err(io_error)? {
            let path = entry.map_err(io_error)?.path();
            let digits = path.file_name().and_then(|name| name.to_str()?.strip_prefix("step-"));
            if let Some(step) = digits.and_then(|digits| digits.parse().ok()) {
                found.push((step, path));
            }
        }
        found.sort();
        Ok(found)
    }

    /// The newest checkpoint whose hashes are right.
    pub fn latest_good(&self) -> Result<Latest> {
        let mut warnings = Vec::new();
        for (step, path) in self.checkpoints()?.into_iter().rev() {
            match disk::verify_dir(&path) {
                Ok(()) => return Ok(Latest { found: Some((step, path)), warnings }),
                Err(e) => warnings.push(format!("checkpoint of step {step} passed over: {e}")),
            }
        }
        Ok(Latest { found: None, warnings })
    }

    /// Makes the run stand at `step`: later metrics go, later checkpoints (all damaged, as the run is resumed from an
    /// earlier one) are set aside as `bad-step-...`, so that the steps can be done and saved again.
    pub fn rewind(&mut self, step: u64) -> Result<()> {
        self.truncate_after(step)?;
        for (_, path) in self.checkpoints()?.into_iter().filter(|(at, _)| *at > step) {
            let aside =
                path.with_file_name(format!("bad-{}", path.file_name().unwrap_or_default().display()));
            if aside.exists() {
                fs::remove_dir_all(&aside).map_err(|e| Error::io(Kind::Disk, "remove", &aside, &e))?;
            }
            fs::rename(&path, &aside).map_err(|e| Error::io(Kind::Disk, "rename", &path, &e))?;
        }
        Ok(())
    }

    /// Removes all but the newest `keep` (at least 1) checkpoints, and never the last that can be resumed from.
    /// "Can be" is judged by presence and sizes: hashing every checkpoint at every save would cost too much.
    fn prune(&self, keep: usize) -> Result<()> {
        let all = self.checkpoints()?;
        let (old, kept) = all.split_at(all.len().saturating_sub(keep.max(1)));
        let good = |(_, path): &&(u64, PathBuf)| disk::verify_sizes(path).is_ok();
        let needed = if kept.iter().any(|c| good(&c)) { None } else { old.iter().rfind(good) };
        for checkpoint in old.iter().filter(|c| Some(*c) != needed) {
            let path = &checkpoint.1;
            fs::remove_dir_all(path).map_err(|e| Error::io(Kind::Disk, "remove", path, &e))?;
        }
        Ok(())
    }

    fn steps(&self) -> PathBuf {
        self.path().join("checkpoints")
    }
}

fn name(step: u64) -> String {
    format!("step-{step:06}")
}

#[cfg(test)]
mod tests {
    use super::super::rundir::Info;
    use super::*;

    fn run(tmp: &Path) -> RunDir {
        let info = Info { argv: vec![], device: "cpu".into(), threads: 1, seed: 0 };
        RunDir::create(&tmp.join("run"), &info).unwrap()
    }

    fn save(run: &mut RunDir, step: u64, keep: usize) -> PathBuf {
        let fill =
            |dir: &Path| disk::write_atomic(&dir.join("state.json"), format!("{{\"at\":{step}}}").as_bytes());
        run.save_checkpoint(step, keep, fill).unwrap()
    }

    fn steps(run: &RunDir) -> Vec<u64> {
        run.checkpoints().unwrap().into_iter().map(|(step, _)| step).collect()
    }

    #[test]
    fn the_newest_are_kept_and_named() {
        let tmp = tempfile::tempdir().unwrap();
        let mut run = run(tmp.path());
        assert!(run.latest_good().unwrap().found.is_none());
        for step in [100, 200, 300, 1_000_000] {
            save(&mut run, step, 2);
        }
        assert_eq!(steps(&run), [300, 1_000_000]);
        let latest = fs::read_to_string(run.path().join("checkpoints/latest")).unwrap();
        assert_eq!(latest, "step-1000000\n");
        save(&mut run, 1_000_000, 0); // the same step again, and keep 0 means 1
        assert_eq!(steps(&run), [1_000_000]);
    }

    #[test]
    fn a_failed_save_keeps_the_good_one() {
        let tmp = tempfile::tempdir().unwrap();
        let mut run = run(tmp.path());
        save(&mut run, 1, 1);
        assert!(run.save_checkpoint(2, 1, |_| Err(Error::disk("no space"))).is_err());
        assert_eq!(run.latest_good().unwrap().found.unwrap().0, 1);
        assert_eq!(fs::read_dir(run.path().join("checkpoints")).unwrap().count(), 2);
    }

    #[test]
    fn damage_falls_back_with_a_warning_and_the_steps_can_be_done_again() {
        let tmp = tempfile::tempdir().unwrap();
        let mut run = run(tmp.path());
        save(&mut run, 1, 9);
        let two = save(&mut run, 2, 9);
        let three = save(&mut run, 3, 9);
        fs::write(two.join("state.json"), "{\"at\":X}").unwrap();
        fs::remove_file(three.join(disk::MANIFEST)).unwrap();
        let latest = run.latest_good().unwrap();
        assert_eq!(latest.found.unwrap().0, 1);
        assert_eq!(latest.warnings.len(), 2);
        assert!(latest.warnings[0].contains("step 3") && latest.warnings[0].contains("never finished"));
        assert!(latest.warnings[1].contains("step 2") && latest.warnings[1].contains("hash"));
        run.rewind(1).unwrap();
        assert_eq!(steps(&run), [1]);
        save(&mut run, 3, 9);
        assert_eq!(run.latest_good().unwrap().found.unwrap().0, 3);
    }

    #[test]
    fn pruning_spares_the_last_good_one() {
        let tmp = tempfile::tempdir().unwrap();
        let mut run = run(tmp.path());
        for step in 1..=4 {
            save(&mut run, step, 9);
        }
        for step in [3, 4] {
            fs::write(run.path().join(format!("checkpoints/step-00000{step}/state.json")), "").unwrap();
        }
        run.prune(2).unwrap();
        assert_eq!(steps(&run), [2, 3, 4]);
        save(&mut run, 5, 2);
        assert_eq!(steps(&run), [4, 5]);
    }
}
