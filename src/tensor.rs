//! `Tensor`: a copyable handle to a matrix in device memory.
//!
//! A handle is an address, a storage dtype and a shape `[rows, cols]` with a row stride; it owns nothing and is never
//! dereferenced here (the backends do that). Row and column ranges of a tensor are tensors too, so a head or the key part
//! of a fused projection is a view, not a copy.

use std::ops::Range;

/// Storage dtype. Arithmetic is f32 (or wider) whatever the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    BF16,
    /// Indices: token ids, positions, rows.
    U32,
    /// Halves of f32 bits: what bf16 weights leave of their master values.
    U16,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::U16 => 2,
        }
    }

    /// The lower-case name used in configuration, symbols and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::U32 => "u32",
            Self::U16 => "u16",
        }
    }
}

/// A handle to `[rows, cols]` elements; row `r` starts `r * stride` elements after the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    addr: usize,
    dtype: DType,
    rows: usize,
    cols: usize,
    stride: usize,
}

impl Tensor {
    /// A dense tensor at `addr`. Only arenas and tests make tensors; everything else takes views of them.
    pub(crate) const fn new(addr: usize, dtype: DType, rows: usize, cols: usize) -> Self {
        Self { addr, dtype, rows, cols, stride: cols }
    }

    /// A dense tensor over memory the caller owns and keeps alive.
    ///
    /// # Safety
    /// `addr` must point to `rows * cols` elements of `dtype`, suitably aligned, valid for as long as the handle is used
    /// and not otherwise borrowed while a device works on it.
    pub const unsafe fn over(addr: usize, dtype: DType, rows: usize, cols: usize) -> Self {
        Self::new(addr, dtype, rows, cols)
    }

    /// Address of the first element.
    pub const fn addr(&self) -> usize {
        self.addr
    }
    /// Storage dtype.
    pub const fn dtype(&self) -> DType {
        self.dtype
    }
    /// Number of rows.
    pub const fn rows(&self) -> usize {
        self.rows
    }
    /// Number of columns.
    pub const fn cols(&self) -> usize {
        self.cols
    }
    /// Elements from one row to the next.
    pub const fn stride(&self) -> usize {
        self.stride
    }
    /// Number of elements.
    pub const fn len(&self) -> usize {
        self.rows * self.cols
    }
    /// Whether it has no elements.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Whether its rows follow each other without gaps.
    pub const fn is_dense(&self) -> bool {
        self.stride == self.cols || self.rows <= 1
    }
    /// Bytes of its elements.
    pub const fn bytes(&self) -> usize {
        self.len() * self.dtype.size()
    }

    /// The view of rows `range`.
    pub fn slice_rows(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.rows, "rows {range:?} of {self:?}");
        Self { addr: self.addr + range.start * self.stride * self.dtype.size(), rows: range.len(), ..*self }
    }

    /// The view of columns `range`.
    pub fn slice_cols(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.cols, "columns {range:?} of {self:?}");
        Self { addr: self.addr + range.start * self.dtype.size(), cols: range.len(), ..*self }
    }

    /// The same dense elements as `[rows, cols]`.
    pub fn reshape(&self, rows: usize, cols: usize) -> Self {
        assert!(self.is_dense() && rows * cols == self.len(), "{self:?} as [{rows}, {cols}]");
        Self { rows, cols, stride: cols, ..*self }
    }
}
