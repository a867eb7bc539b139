//! The op contract: what a device can do, one trait per family.
//!
//! Laws for every op: outputs come first; activation gradients are *set*, parameter gradients are *added*; any storage
//! dtype, f32 arithmetic (f64 where a sum is long); a fixed order of reduction, so the same input gives the same bits, and
//! a row's result never depends on the other rows of a batch; no allocation beyond scratch that is kept, no host sync.
//! Wrong shapes are bugs of the caller and panic.
//!
//! Dims: `t` tokens, `d` model width, `h` query heads, `g` key/value heads, `k` head size, `f` ffn width, `v` vocabulary.

pub mod attention;
pub mod elem;
pub mod embed;
pub mod forest;
pub mod glu;
pub mod loss;
pub mod matmul;
pub mod memory;
pub mod norm;
pub mod optim;
pub mod rope;

pub use attention::{Attention, Heads};
pub use elem::Elem;
pub use embed::Embed;
pub use forest::{Batch, Segment};
pub use glu::Glu;
pub use loss::Loss;
pub use matmul::{Form, Matmul};
pub use memory::{Block, Memory};
pub use norm::Norm;
pub use optim::{AdamW, Optim};
pub use rope::Rope;

/// A backend: every op, object-safe, shared between threads.
pub trait Device:
    Memory + Elem + Embed + Norm + Matmul + Rope + Attention + Glu + Loss + Optim + Send + Sync
{
}
