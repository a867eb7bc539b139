//! The kernel images inside this binary: one for each file of `kernels/`, made by `build.rs`.
//!
//! An image holds machine code for several GPUs and, in portable files, PTX that newer ones translate. A binary built
//! without nvcc, as development builds are, has placeholders: they name the file and load only into the emulated driver.

/// What `build.rs` made of `kernels/{stem}.cu`.
pub struct Image {
    /// Name of the file without `.cu`.
    pub stem: &'static str,
    /// A fatbin, or a placeholder.
    pub bytes: &'static [u8],
}

/// How a placeholder begins.
const PLACEHOLDER: &[u8] = b"FLANRT-EMU";

/// End of the name of files whose instructions exist on compute capability 9.0 alone.
const HOPPER: &str = "_sm90";

impl Image {
    /// Whether there is code in it.
    pub fn is_code(&self) -> bool {
        !self.bytes.starts_with(PLACEHOLDER)
    }

    /// Whether it is meant for GPUs of this compute capability (90 is 9.0).
    pub fn fits(&self, capability: u32) -> bool {
        !self.stem.ends_with(HOPPER) || capability == 90
    }
}

/// The driver takes images at addresses that a word may have.
#[repr(C, align(16))]
struct Aligned<T: ?Sized>(T);

include!(concat!(env!("OUT_DIR"), "/cuda_images.rs"));
