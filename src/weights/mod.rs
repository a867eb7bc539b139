//! Weights on disk: safetensors in (memory-mapped, one file or shards) and out, element conversion, bad-file errors.
//!
//! This is the only module that knows the safetensors format. A checkpoint's tensors are views into the mapped file;
//! they are converted while they are copied to where they are used, so no second full copy is ever in memory.

pub mod convert;
mod diagnose;
mod load;
pub mod read;
pub mod save;
mod source;

pub use convert::{convert_bytes, find_non_finite};
pub use load::{Account, check, check_finite, load, load_with};
pub use read::{Checkpoint, Entry};
pub use save::{MAX_SHARD_BYTES, Tensor, save_model, write_file};
pub use source::Source;

// Bytes of a file are taken as numbers as they lie; the format is little-endian.
const _: () =
    assert!(cfg!(target_endian = "little"), "flanrt reads safetensors on little-endian machines only");

impl From<crate::tensor::DType> for safetensors::Dtype {
    fn from(dtype: crate::tensor::DType) -> Self {
        use crate::tensor::DType;
        match dtype {
            DType::F32 => Self::F32,
            DType::F16 => Self::F16,
            DType::BF16 => Self::BF16,
            DType::U32 => Self::U32,
            DType::U16 => Self::U16,
        }
    }
}
