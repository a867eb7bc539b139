//! Files that are either whole or not there: atomic writes, manifests with hashes, free space.
//!
//! A file is written to a temporary sibling, synced and renamed; a folder likewise, with MANIFEST.json as the last
//! file written. So a crash, a kill or a full disk leaves what was good before, and at most a temporary with a
//! recognisable name (`.flanrt-tmp-<process>-...`), which [`clean_leftovers`] removes.
//! The manifest itself is `disk/manifest.rs`. What goes into the files is not here: see `weights::save` and
//! `train::rundir`.

mod manifest;

use crate::error::{Error, Kind, Result};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

pub use manifest::{MANIFEST, Manifest, ManifestFile, hash_file, manifest, verify_dir, verify_sizes};

const TEMP: &str = ".flanrt-tmp-";
const OLD: &str = ".flanrt-old-";

/// Writes `bytes` to `path`, replacing a file that is there in one step: a reader sees the old content or the new.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic_with(path, |out| out.write_all(bytes))
}

/// [`write_atomic`] for content that `write` streams out.
pub fn write_atomic_with(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<()> {
    let temp = Temp::beside(path)?;
    let file = File::create_new(&temp.path).map_err(|e| Error::io(Kind::Disk, "create", path, &e))?;
    let mut out = BufWriter::with_capacity(1 << 16, file);
    write(&mut out)
        .and_then(|()| out.flush())
        .and_then(|()| out.get_ref().sync_all())
        .map_err(|e| Error::io(Kind::Disk, "write", path, &e))?;
    rename(&temp.path, path)?;
    sync_dir(&parent_of(path))
}

/// Fills a temporary sibling of `dir` by `fill`, adds MANIFEST.json, syncs everything and renames it to `dir`.
///
/// A folder that is already at `dir` is replaced, unless it holds files that no earlier call wrote: those are not
/// ours to delete. On any error the temporary is removed and `dir` is as it was.
pub fn write_dir_atomic(dir: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let old = sibling(dir, OLD)?;
    restore(&old, dir)?;
    refuse_foreign(dir)?;
    let parent = parent_of(dir);
    ensure_writable_dir(&parent)?;
    let temp = Temp::beside(dir)?;
    fs::create_dir(&temp.path).map_err(|e| Error::io(Kind::Disk, "create", dir, &e))?;
    fill(&temp.path)?;
    manifest::seal(&temp.path)?;
    // A rename does not replace a folder that has files. A crash between the two renames is undone by `restore`.
    let replaces = exists(dir);
    if replaces {
        rename(dir, &old)?;
    }
    if let Err(e) = rename(&temp.path, dir) {
        return if replaces { rename(&old, dir).and(Err(e)) } else { Err(e) };
    }
    sync_dir(&parent)?;
    if replaces {
        remove(&old)?;
    }
    Ok(())
}

/// Bytes that this user can still write on the disk of `path`, which need not exist yet.
pub fn free_space(path: &Path) -> Result<u64> {
    let place = existing_ancestor(path);
    let stat = rustix::fs::statvfs(&place)
        .map_err(|e| Error::io(Kind::Disk, "read the free space of", &place, &e.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// An error, before any work is done, if the disk of `path` has less than `bytes` free.
pub fn ensure_space(path: &Path, bytes: u64) -> Result<()> {
    let free = free_space(path)?;
    if free >= bytes {
        return Ok(());
    }
    let (needed, free) = (human_bytes(bytes), human_bytes(free));
    Err(Error::disk(format!("{}: {needed} needed on this disk, {free} free", path.display()))
        .fix("free disk space, keep fewer checkpoints, or write to another disk"))
}

/// Proves that the folder `path` can be made, or written in where it is there, and leaves nothing behind.
pub fn ensure_can_write_dir(path: &Path) -> Result<()> {
    let place = existing_ancestor(path);
    if !place.is_dir() {
        let (path, place) = (path.display(), place.display());
        return Err(Error::disk(format!("cannot create the folder {path}: {place} is not a folder"))
            .fix("choose another path, or move that file away"));
    }
    let probe = Temp::beside(&place.join("probe"))?;
    let refused = |e: io::Error| Error::io(Kind::Disk, "write in the folder", path, &e);
    File::create_new(&probe.path).map(drop).map_err(refused)
}

/// Creates the folder `path` with its parents and proves that a file can be written in it.
pub fn ensure_writable_dir(path: &Path) -> Result<()> {
    ensure_can_write_dir(path)?;
    fs::create_dir_all(path).map_err(|e| Error::io(Kind::Disk, "write in the folder", path, &e))?;
    ensure_can_write_dir(path)
}

/// Removes what killed processes left in `dir`, and puts back a folder whose replacement was cut short.
/// Temporaries of processes that still run are left alone. Returns what was removed or put back.
pub fn clean_leftovers(dir: &Path) -> Result<Vec<PathBuf>> {
    let io_error = |e: io::Error| Error::io(Kind::Disk, "read the folder", dir, &e);
    let mut done = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_error)? {
        let path = entry.map_err(io_error)?.path();
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default().to_owned();
        if let Some(target) = name.strip_prefix(OLD) {
            restore(&path, &dir.join(target))?;
            done.push(path);
        } else if let Some(rest) = name.strip_prefix(TEMP)
            && !runs_elsewhere(rest.split('-').next().unwrap_or_default())
        {
            remove(&path)?;
            done.push(path);
        }
    }
    done.sort();
    Ok(done)
}

/// `bytes` for people: `812 bytes`, `1.2 kB`, `3.4 GB` (powers of 1000).
pub fn human_bytes(bytes: u64) -> String {
    if bytes < 1000 {
        return format!("{bytes} bytes");
    }
    let units = ["kB", "MB", "GB", "TB", "PB", "EB"];
    let (mut value, mut unit) = (bytes as f64 / 1000.0, 0);
    while value >= 999.95 && unit + 1 < units.len() {
        (value, unit) = (value / 1000.0, unit + 1);
    }
    format!("{value:.1} {}", units[unit])
}

/// A temporary path. Dropping it removes what is still there under that name: nothing, after the rename.
struct Temp {
    path: PathBuf,
}

impl Temp {
    fn beside(path: &Path) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (pid, n) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = sibling(path, &format!("{TEMP}{pid}-{n}-"))?;
        // A process with our number that is long gone may have left one of this name.
        remove(&path)?;
        Ok(Self { path })
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        // The error that led here matters more than one in cleaning up; `clean_leftovers` gets another chance.
        let _ = remove(&self.path);
    }
}

/// An error if replacing `dir` would delete something that [`write_dir_atomic`] did not write.
fn refuse_foreign(dir: &Path) -> Result<()> {
    if !exists(dir) {
        return Ok(());
    }
    let refuse = |what: String| {
        Err(Error::disk(format!("will not replace {}: {what}", dir.display()))
            .fix("choose another path, or move it away"))
    };
    if !dir.is_dir() {
        return refuse("it is not a folder".into());
    }
    let mut names = Vec::new();
    manifest::walk(dir, "", &mut names, &mut Vec::new())?;
    if names.is_empty() {
        return Ok(());
    }
    let Ok(manifest) = manifest(dir) else {
        return refuse(format!("it holds files but no valid {MANIFEST}"));
    };
    let ours = |name: &String| name == MANIFEST || manifest.files.iter().any(|file| file.name == *name);
    match names.iter().find(|name| !ours(name)) {
        Some(name) => refuse(format!("{name} in it was not written by flanrt")),
        None => Ok(()),
    }
}

/// Finishes or undoes a replacement of `dir` that was cut short after `dir` had been moved to `old`.
fn restore(old: &Path, dir: &Path) -> Result<()> {
    match (exists(old), exists(dir)) {
        (true, true) => remove(old),
        (true, false) => rename(old, dir),
        _ => Ok(()),
    }
}

/// Whether `pid` is the number of another process that runs now. In a container our own number can come back.
fn runs_elsewhere(pid: &str) -> bool {
    use rustix::process::{Pid, test_kill_process};
    match pid.parse().ok().and_then(Pid::from_raw) {
        Some(pid) if pid.as_raw_nonzero().get() as u32 != std::process::id() => {
            !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH))
        }
        _ => false,
    }
}

fn sibling(path: &Path, prefix: &str) -> Result<PathBuf> {
    let Some(name) = path.file_name() else {
        return Err(Error::disk(format!("{:?} does not name a file or folder of its own", path.display()))
            .fix("give a path that ends in a name"));
    };
    let mut sibling = std::ffi::OsString::from(prefix);
    sibling.push(name);
    Ok(parent_of(path).join(sibling))
}

fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// `path`, or the nearest folder above it that is there.
fn existing_ancestor(path: &Path) -> PathBuf {
    let found = path.ancestors().find(|place| *place != Path::new("") && exists(place));
    found.map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Whether something is at `path`; a dangling link counts, as it stands in the way.
fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|e| Error::io(Kind::Disk, "put in place", to, &e))
}

/// Removes a file or a folder with all it holds; nothing there is fine.
fn remove(path: &Path) -> Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => return Ok(()),
    };
    removed.map_err(|e| Error::io(Kind::Disk, "remove", path, &e))
}

/// Makes a rename in `dir` survive a power cut. Some file systems have no sync of folders, which is then no error.
fn sync_dir(dir: &Path) -> Result<()> {
    match File::open(dir).and_then(|dir| dir.sync_all()) {
        Err(e) if !matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            Err(Error::io(Kind::Disk, "sync", dir, &e))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn fill_with(content: &'static str) -> impl FnOnce(&Path) -> Result<()> {
        move |dir| {
            fs::create_dir(dir.join("sub")).unwrap();
            fs::write(dir.join("sub/b"), content).unwrap();
            fs::write(dir.join("a"), "alpha").unwrap();
            Ok(())
        }
    }

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_stays() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("latest");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        let e = write_atomic_with(&path, |_| Err(io::ErrorKind::StorageFull.into())).unwrap_err();
        assert_eq!((e.kind, e.fix.unwrap().contains("free disk space")), (Kind::Disk, true));
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(tmp.path()), ["latest"]);
    }

    #[test]
    fn a_folder_is_replaced_whole_with_its_manifest() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("step-1");
        write_dir_atomic(&dir, fill_with("old")).unwrap();
        write_dir_atomic(&dir, fill_with("beta")).unwrap();
        verify_dir(&dir).unwrap();
        let m = manifest(&dir).unwrap();
        assert_eq!(
            m.files.iter().map(|f| (&f.name[..], f.bytes)).collect::<Vec<_>>(),
            [("a", 5), ("sub/b", 4)]
        );
        assert_eq!(m.files[1].blake3, blake3::hash(b"beta").to_hex().to_string());
        let e = write_dir_atomic(&dir, |d| {
            fs::write(d.join("a"), "half").unwrap();
            Err(Error::disk("gone wrong"))
        });
        assert_eq!(e.unwrap_err().message, "gone wrong");
        assert_eq!(fs::read(dir.join("a")).unwrap(), b"alpha");
        assert_eq!(names(tmp.path()), ["step-1"]);
    }

    #[test]
    fn folders_of_others_are_not_replaced() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("mine");
        fs::create_dir(&dir).unwrap();
        write_dir_atomic(&dir, fill_with("x")).unwrap(); // empty is fine
        fs::write(dir.join("notes.txt"), "precious").unwrap();
        let e = write_dir_atomic(&dir, fill_with("y")).unwrap_err();
        assert!(e.kind == Kind::Disk && e.message.contains("notes.txt"), "{e}");
        fs::remove_file(dir.join(MANIFEST)).unwrap();
        assert!(write_dir_atomic(&dir, fill_with("y")).unwrap_err().message.contains("no valid MANIFEST"));
        fs::write(tmp.path().join("file"), "").unwrap();
        let e = write_dir_atomic(&tmp.path().join("file"), fill_with("y")).unwrap_err();
        assert!(e.message.contains("not a folder"), "{e}");
        assert_eq!(fs::read(dir.join("notes.txt")).unwrap(), b"precious");
    }

    #[test]
    fn leftovers_of_killed_processes_go_and_replaced_folders_come_back() {
        let tmp = tempfile::tempdir().unwrap();
        let at = |name: &str| tmp.path().join(name);
        let dead = {
            let mut child = std::process::Command::new("true").spawn().unwrap();
            child.wait().unwrap();
            child.id()
        };
        fs::create_dir_all(at(&format!(".flanrt-tmp-{dead}-0-step-2/sub"))).unwrap();
        fs::write(at(&format!(".flanrt-tmp-{}-99-latest", std::process::id())), "x").unwrap();
        fs::write(at(".flanrt-tmp-1-0-live"), "x").unwrap(); // process 1 always runs
        fs::create_dir(at("step-1")).unwrap();
        fs::create_dir(at(".flanrt-old-step-1")).unwrap();
        write_dir_atomic(&at("step-0"), fill_with("kept")).unwrap();
        fs::rename(at("step-0"), at(".flanrt-old-step-0")).unwrap();
        assert_eq!(clean_leftovers(tmp.path()).unwrap().len(), 4);
        assert_eq!(names(tmp.path()), [".flanrt-tmp-1-0-live", "step-0", "step-1"]);
        verify_dir(&at("step-0")).unwrap();
    }

    #[test]
    fn space_and_writability_are_known_before_the_work() {
        let tmp = tempfile::tempdir().unwrap();
        let deep = tmp.path().join("not/there/yet");
        assert!(free_space(&deep).unwrap() > 0);
        ensure_space(&deep, 1).unwrap();
        let e = ensure_space(&deep, u64::MAX).unwrap_err();
        assert!(e.kind == Kind::Disk && e.message.contains("18.4 EB needed"), "{e}");
        ensure_can_write_dir(&deep).unwrap();
        assert!(names(tmp.path()).is_empty());
        ensure_writable_dir(&deep).unwrap();
        assert!(names(&deep).is_empty());
        fs::write(tmp.path().join("file"), "").unwrap();
        let e = ensure_writable_dir(&tmp.path().join("file/below")).unwrap_err();
        assert!(e.kind == Kind::Disk && e.message.contains("file is not a folder"), "{e}");
        if cfg!(target_os = "linux") {
            // Not writable, whoever the user is.
            assert_eq!(ensure_writable_dir(Path::new("/proc/self")).unwrap_err().kind, Kind::Disk);
        }
        assert_eq!(human_bytes(999), "999 bytes");
        assert_eq!(human_bytes(999_960), "1.0 MB");
    }

    /// Runs itself again on a disk of 256 kB of its own, where the system lets an ordinary user mount one.
    #[test]
    fn a_full_disk_leaves_what_was_good() {
        const DISK: &str = "FLANRT_TEST_SMALL_DISK";
        if let Some(disk) = std::env::var_os(DISK).map(PathBuf::from) {
            let dir = disk.join("ck");
            write_dir_atomic(&dir, fill_with("good")).unwrap();
            write_atomic(&disk.join("latest"), b"ck").unwrap();
            let big = vec![1u8; 1 << 20];
            let e = write_atomic(&disk.join("latest"), &big).unwrap_err();
            assert!(e.kind == Kind::Disk && e.message.contains("No space left"), "{e}");
            assert_eq!(fs::read(disk.join("latest")).unwrap(), b"ck");
            let write_big = |d: &Path| write_atomic(&d.join("model"), &big);
            let e = write_dir_atomic(&dir, write_big).unwrap_err();
            assert!(e.message.contains("No space left") && e.fix.is_some(), "{e}");
            verify_dir(&dir).unwrap();
            assert_eq!(names(&disk), ["ck", "latest"]);
            assert_eq!(ensure_space(&dir, 1 << 20).unwrap_err().kind, Kind::Disk);
            println!("small disk: tested");
            return;
        }
        let tmp = tempfile::tempdir().unwrap();
        let script = r#"mount -t tmpfs -o size=256k none "$0" && exec "$1" --exact --nocapture disk::tests::a_full_disk_leaves_what_was_good"#;
        let run = std::process::Command::new("unshare")
            .args(["-Urm", "sh", "-c", script])
            .arg(tmp.path())
            .arg(std::env::current_exe().unwrap())
            .env(DISK, tmp.path())
            .output();
        match run {
            Ok(out) if String::from_utf8_lossy(&out.stdout).contains("running 1 test") => {
                assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
                assert!(String::from_utf8_lossy(&out.stdout).contains("small disk: tested"));
            }
            _ => println!("skipped: no small disk can be mounted here (unshare, tmpfs)"),
        }
    }
}
