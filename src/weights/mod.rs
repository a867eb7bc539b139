//! Weights on disk: safetensors in (memory-mapped, one file or shards) and out, element conversion, bad-file errors.
//!
//! This is the only module that knows the safetensors format. A checkpoint's tensors are views into the mapped file;
//! they are converted while they are copied to where they are used, so no second full copy is ever in memory.

pub mod convert;
mod diagnose;
pub mod read;
pub mod save;

pub use convert::{convert, convert_bytes, find_non_finite};
pub use diagnose::lfs_pointer;
pub use read::{Checkpoint, Entry};

// Bytes of a file are taken as numbers as they lie; the format is little-endian.
const _: () =
    assert!(cfg!(target_endian = "little"), "flanrt reads safetensors on little-endian machines only");

/// How the elements of a weight are stored in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoredDType {
    /// 32-bit IEEE float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// The upper half of a 32-bit IEEE float.
    BF16,
}

impl StoredDType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }
    /// Its name in `config.json`: "float32", "float16", "bfloat16".
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
        }
    }
}

impl From<StoredDType> for safetensors::Dtype {
    fn from(dtype: StoredDType) -> Self {
        match dtype {
            StoredDType::F32 => Self::F32,
            StoredDType::F16 => Self::F16,
            StoredDType::BF16 => Self::BF16,
        }
    }
}
