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
pub use forest::{Batch, Forest, Segment};
pub use glu::Glu;
pub use loss::Loss;
pub use matmul::{Activation, Epilogue, Form, Matmul};
pub use memory::{Block, Fetch, Memory};
pub use norm::Norm;
pub use optim::{Adafactor, AdamW, Optim};
pub use rope::Rope;

use crate::tensor::DType;

/// What a device asks of those who lay out memory and batches for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The storage dtype that suits it best.
    pub dtype: DType,
    /// Tokens of a micro-batch that keep it busy.
    pub tokens: usize,
    /// Bytes of logits to hold at a time.
    pub logits: usize,
    /// Tokens and predictions of a batch are filled up to multiples of this, so that the same sizes come again and a device
    /// that records its work can play it again. 1: not at all.
    pub multiple: usize,
    /// u32 words of a forest's table: so many, and so many more a token.
    pub table: (usize, usize),
    /// Whether `attention_bwd` sums `dq` in its scratch, `[t, h k]` f32 more.
    pub dq_scratch: bool,
}

impl Profile {
    /// A device that takes batches as they are: a CPU.
    pub const PLAIN: Self = Self {
        dtype: DType::F32,
        tokens: 2048,
        logits: 16 << 20,
        multiple: 1,
        table: (0, 0),
        dq_scratch: false,
    };

    /// Words of the table of a forest of `tokens`.
    pub const fn table_words(&self, tokens: usize) -> usize {
        self.table.0 + self.table.1 * tokens
    }
}

/// A backend: every op, object-safe, shared between threads.
pub trait Device:
    Memory + Elem + Embed + Norm + Matmul + Rope + Attention + Glu + Loss + Optim + Send + Sync
{
    /// What it asks of memory and batches.
    fn profile(&self) -> Profile;
}
