//! Where a model comes from: a folder, or the one inside the program.

use super::read::Checkpoint;
use crate::error::{Error, Kind, Result};
use crate::model::Config;
use crate::text::Files;
use std::path::PathBuf;

/// The embedded model's files (`weights/README.md` says how it was made).
const BUILTIN: [(&str, &[u8]); 5] = [
    ("config.json", include_bytes!("../../weights/config.json")),
    ("flanrt.json", include_bytes!("../../weights/flanrt.json")),
    ("generation_config.json", include_bytes!("../../weights/generation_config.json")),
    ("tokenizer.json", include_bytes!("../../weights/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../weights/tokenizer_config.json")),
];

/// The embedded model's weights.
static BUILTIN_WEIGHTS: &[u8] = include_bytes!("../../weights/model.safetensors");

/// A model in Hugging Face layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A folder.
    Dir(PathBuf),
    /// The embedded model, `builtin`.
    Builtin,
}

impl Source {
    /// `builtin` or a path. A path that is not a folder is an error that says what was expected.
    pub fn find(name: &str) -> Result<Self> {
        if name == "builtin" {
            return Ok(Self::Builtin);
        }
        let path = PathBuf::from(name);
        let expected =
            "give a folder that holds config.json, tokenizer.json and model.safetensors, or `builtin`";
        match std::fs::metadata(&path) {
            Ok(m) if m.is_dir() => Ok(Self::Dir(path)),
            Ok(_) => Err(Error::model(format!("{name} is a file, not a model folder")).fix(expected)),
            Err(e) => Err(Error::io(Kind::Model, "read model folder", &path, &e).fix(expected)),
        }
    }

    /// The model's configuration.
    pub fn config(&self) -> Result<Config> {
        let place = format!("{}/config.json", self.place());
        let bytes = self.get("config.json")?;
        let bytes = bytes
            .ok_or_else(|| Error::model(format!("{place} is missing")).fix("is this a model folder?"))?;
        Config::parse(&bytes, &place)
    }

    /// The model's weights.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        match self {
            Self::Dir(dir) => Checkpoint::open(dir),
            Self::Builtin => Checkpoint::from_static(BUILTIN_WEIGHTS),
        }
    }

    /// A short name: the folder's, or `builtin`.
    pub fn name(&self) -> String {
        match self {
            Self::Dir(dir) => {
                let full = dir.canonicalize().unwrap_or_else(|_| dir.clone());
                full.file_name().map_or("model".into(), |n| n.to_string_lossy().into_owned())
            }
            Self::Builtin => "builtin".into(),
        }
    }
}

impl Files for Source {
    fn place(&self) -> String {
        match self {
            Self::Dir(dir) => dir.display().to_string(),
            Self::Builtin => "builtin".into(),
        }
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match self {
            Self::Builtin => Ok(BUILTIN.iter().find(|(n, _)| *n == name).map(|(_, bytes)| bytes.to_vec())),
            Self::Dir(dir) => {
                let path = dir.join(name);
                match std::fs::read(&path) {
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    Err(e) => Err(Error::io(Kind::Model, "read", &path, &e)),
                }
            }
        }
    }
}
