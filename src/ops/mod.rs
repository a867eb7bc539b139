//! The op contract: what a device can do.
pub mod forest;
