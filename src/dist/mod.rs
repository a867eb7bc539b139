//! Processes that train together. [`Solo`] is a group of one; groups over MPI and NCCL have the same face.

use crate::ops::Device;
use crate::tensor::Tensor;

/// What the training loop needs of its peers. Sums are taken in rank order, so that they do not depend on timing.
pub trait Group {
    /// This process's number, from 0.
    fn rank(&self) -> usize;
    /// Number of processes.
    fn size(&self) -> usize;
    /// Replaces `x` (f32, on the device) by its sum over all processes.
    fn sum(&self, device: &dyn Device, x: Tensor);
    /// Replaces `values` by their sums over all processes.
    fn sum_scalars(&self, values: &mut [f64]);
}

/// One process alone: every sum is its own value.
pub struct Solo;

impl Group for Solo {
    fn rank(&self) -> usize {
        0
    }
    fn size(&self) -> usize {
        1
    }
    fn sum(&self, _: &dyn Device, _: Tensor) {}
    fn sum_scalars(&self, _: &mut [f64]) {}
}
