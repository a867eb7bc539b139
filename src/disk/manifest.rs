//! MANIFEST.json: the names, sizes and hashes of a folder's files, by which damage is found before it is used.
//!
//! It is the last file written, so that a folder without one was never finished. Replacing folders is not here.

use super::sync_dir;
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

/// The name of the manifest inside a folder written by [`super::write_dir_atomic`].
pub const MANIFEST: &str = "MANIFEST.json";

/// What a folder written by [`super::write_dir_atomic`] holds; the content of its MANIFEST.json.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format: 1.
    pub format: u32,
    /// Every file except the manifest itself, by name.
    pub files: Vec<ManifestFile>,
}

/// One file of a [`Manifest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Path relative to the folder, with `/` between the parts.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// BLAKE3 of the content, 64 hex digits.
    pub blake3: String,
}

/// Reads the manifest of `dir`. Errors: it is missing (the folder was never finished) or unreadable.
pub fn manifest(dir: &Path) -> Result<Manifest> {
    let path = dir.join(MANIFEST);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(Error::disk(format!("{}: no {MANIFEST}: it was never finished", dir.display()))
                .fix("use an earlier checkpoint, or write it again"));
        }
        Err(e) => return Err(Error::io(Kind::Disk, "read", &path, &e)),
    };
    let bad = |what: String| Error::disk(format!("{}: {what}", path.display())).fix("write the folder again");
    let manifest: Manifest =
        serde_json::from_slice(&bytes).map_err(|e| bad(format!("not a manifest: {e}")))?;
    for file in &manifest.files {
        let mut parts = Path::new(&file.name).components();
        if file.name.is_empty() || !parts.all(|part| matches!(part, Component::Normal(_))) {
            return Err(bad(format!("names a file outside of the folder: {:?}", file.name)));
        }
    }
    Ok(manifest)
}

/// Checks every file of `dir` against its manifest: presence, size and hash, an error for each that differs.
pub fn verify_dir(dir: &Path) -> Result<()> {
    for file in &verify_sizes(dir)?.files {
        let path = dir.join(&file.name);
        let found = hash_file(&path)?;
        if found != file.blake3 {
            return Err(damaged(&path, format!("hash {found}, expected {}", file.blake3)));
        }
    }
    Ok(())
}

/// The cheap half of [`verify_dir`]: presence and sizes. Returns the manifest.
pub fn verify_sizes(dir: &Path) -> Result<Manifest> {
    let manifest = manifest(dir)?;
    for file in &manifest.files {
        let path = dir.join(&file.name);
        match fs::metadata(&path) {
            Ok(meta) if meta.len() == file.bytes => {}
            Ok(meta) => {
                return Err(damaged(&path, format!("{} bytes, expected {}", meta.len(), file.bytes)));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(damaged(&path, format!("missing, though {MANIFEST} names it")));
            }
            Err(e) => return Err(Error::io(Kind::Disk, "read", &path, &e)),
        }
    }
    Ok(manifest)
}

/// The BLAKE3 hash of a file, 64 hex digits.
pub fn hash_file(path: &Path) -> Result<String> {
    let io_error = |e: io::Error| Error::io(Kind::Disk, "read", path, &e);
    let mut file = File::open(path).map_err(io_error)?;
    let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize().to_hex().to_string()),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(io_error(e)),
        };
    }
}

/// Hashes and syncs every file under `dir`, then writes and syncs the manifest, then the folders.
pub(super) fn seal(dir: &Path) -> Result<()> {
    let (mut names, mut folders) = (Vec::new(), vec![dir.to_path_buf()]);
    walk(dir, "", &mut names, &mut folders)?;
    names.sort();
    let mut files = Vec::with_capacity(names.len());
    for name in names {
        let path = dir.join(&name);
        let file = File::open(&path).map_err(|e| Error::io(Kind::Disk, "read", &path, &e))?;
        file.sync_all().map_err(|e| Error::io(Kind::Disk, "write", &path, &e))?;
        let bytes = file.metadata().map_err(|e| Error::io(Kind::Disk, "read", &path, &e))?.len();
        files.push(ManifestFile { name, bytes, blake3: hash_file(&path)? });
    }
    let text = serde_json::to_string_pretty(&Manifest { format: 1, files })
        .map_err(|e| Error::internal(format!("manifest: {e}")))?;
    let path = dir.join(MANIFEST);
    File::create_new(&path)
        .and_then(|mut file| file.write_all((text + "\n").as_bytes()).and_then(|()| file.sync_all()))
        .map_err(|e| Error::io(Kind::Disk, "write", &path, &e))?;
    folders.iter().try_for_each(|folder| sync_dir(folder))
}

/// Collects the relative names of all files under `dir` and the paths of all folders.
pub(super) fn walk(
    dir: &Path,
    prefix: &str,
    names: &mut Vec<String>,
    folders: &mut Vec<PathBuf>,
) -> Result<()> {
    let io_error = |e: io::Error| Error::io(Kind::Disk, "read the folder", dir, &e);
    for entry in fs::read_dir(dir).map_err(io_error)? {
        let entry = entry.map_err(io_error)?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type().map_err(io_error)?.is_dir() {
            folders.push(entry.path());
            walk(&entry.path(), &format!("{name}/"), names, folders)?;
        } else {
            names.push(name);
        }
    }
    Ok(())
}

fn damaged(path: &Path, what: String) -> Error {
    Error::disk(format!("{}: {what}", path.display())).fix("use an earlier checkpoint, or write it again")
}

#[cfg(test)]
mod tests {
    use super::super::write_dir_atomic;
    use super::*;

    #[test]
    fn verification_names_each_kind_of_damage() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("ck");
        let fill = |dir: &Path| {
            fs::create_dir(dir.join("sub")).unwrap();
            fs::write(dir.join("sub/b"), "beta").unwrap();
            fs::write(dir.join("a"), "alpha").unwrap();
            Ok(())
        };
        let check = |damage: &dyn Fn(), expected: &str| {
            write_dir_atomic(&dir, fill).unwrap();
            damage();
            let e = verify_dir(&dir).unwrap_err();
            assert!(e.kind == Kind::Disk && e.message.contains(expected), "{expected:?} not in {e}");
        };
        check(&|| fs::write(dir.join("a"), "alphx").unwrap(), "a: hash ");
        check(&|| fs::write(dir.join("a"), "alph").unwrap(), "a: 4 bytes, expected 5");
        check(&|| fs::remove_file(dir.join("sub/b")).unwrap(), "sub/b: missing");
        check(&|| fs::remove_file(dir.join(MANIFEST)).unwrap(), "never finished");
        fs::remove_dir_all(&dir).unwrap();
        check(&|| fs::write(dir.join(MANIFEST), "{").unwrap(), "not a manifest");
        fs::remove_dir_all(&dir).unwrap();
        let evil = r#"{"format":1,"files":[{"name":"../x","bytes":0,"blake3":""}]}"#;
        check(&|| fs::write(dir.join(MANIFEST), evil).unwrap(), "outside of the folder");
    }
}
