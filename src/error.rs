//! The one error type and the process exit codes.
//!
//! An error says what was given, what was expected, where, and how to mend it. `Kind` decides the exit code,
//! so that scripts can tell a bad flag from a full disk. Broken contracts of our own code are panics, not errors.

use std::fmt;
use std::path::Path;

/// `Result` with flanrt's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong; the discriminant is the process exit code (see `docs/exit-codes.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A bug in flanrt.
    Internal = 1,
    /// Command line or configuration.
    Usage = 2,
    /// Data, requests or task definitions.
    Data = 3,
    /// Model files: config, weights, tokenizer.
    Model = 4,
    /// Does not fit in memory.
    Memory = 5,
    /// Training diverged: loss or gradient not finite.
    Diverged = 6,
    /// Disk, output directory or checkpoint.
    Disk = 7,
    /// A GPU or its driver: missing, unusable or failed.
    Device = 8,
    /// Several processes could not work together.
    Distributed = 9,
    /// Stopped by a signal or a time limit, with a good checkpoint: start again to continue.
    Stopped = 75,
    /// Interrupted before there was anything to save.
    Interrupted = 130,
}

/// An error with its kind, its message and, where there is one, the way to fix it.
#[derive(Debug)]
pub struct Error {
    /// Decides the exit code.
    pub kind: Kind,
    /// What was given, what was expected, where.
    pub message: String,
    /// What the user can do about it.
    pub fix: Option<String>,
}

impl Error {
    /// An error of `kind`.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), fix: None }
    }
    /// A bug in flanrt (exit 1).
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }
    /// Command line or configuration (exit 2).
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }
    /// Data or requests (exit 3).
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(Kind::Data, message)
    }
    /// Model files (exit 4).
    pub fn model(message: impl Into<String>) -> Self {
        Self::new(Kind::Model, message)
    }
    /// Disk, output directory or checkpoint (exit 7).
    pub fn disk(message: impl Into<String>) -> Self {
        Self::new(Kind::Disk, message)
    }
    /// A GPU or its driver (exit 8).
    pub fn device(message: impl Into<String>) -> Self {
        Self::new(Kind::Device, message)
    }
    /// A failed system call on `path` (`doing`: "read", "create", ...), with the fix where the cause is plain.
    pub fn io(kind: Kind, doing: &str, path: &Path, e: &std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        let err = Self::new(kind, format!("cannot {doing} {}: {e}", path.display()));
        match e.kind() {
            K::NotFound => err.fix("check the path"),
            K::PermissionDenied | K::ReadOnlyFilesystem => {
                err.fix("check the permissions, or choose another path")
            }
            K::StorageFull | K::QuotaExceeded => err.fix("free disk space, or write to another disk"),
            _ => err,
        }
    }
    /// The same error with a fix.
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
    /// The same error with a place put in front of its message (`path: message`).
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }
    /// Leaves everything up to the nearest [`catch`] with this error: for what can fail only because a machine does, in
    /// operations that a healthy one always completes.
    pub fn throw(self) -> ! {
        std::panic::resume_unwind(Box::new(self))
    }
    /// The process exit code.
    pub fn exit_code(&self) -> u8 {
        self.kind as u8
    }
}

/// What `work` returns, or throws.
pub fn catch<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    // What was under way when the error was thrown is not used again: the caller ends with it.
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(result) => result,
        Err(thrown) => match thrown.downcast::<Error>() {
            Ok(error) => Err(*error),
            Err(panic) => std::panic::resume_unwind(panic),
        },
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thrown_error_is_returned_by_the_nearest_catch() {
        let thrown = catch(|| -> Result<()> { Error::device("gone").fix("look").throw() }).unwrap_err();
        assert_eq!(
            (thrown.kind, thrown.message.as_str(), thrown.fix.as_deref()),
            (Kind::Device, "gone", Some("look"))
        );
        assert_eq!(catch(|| Ok(1)).unwrap(), 1);
        assert_eq!(catch(|| Err::<(), _>(Error::data("bad"))).unwrap_err().kind, Kind::Data);
        let panic = std::panic::catch_unwind(|| {
            catch(|| -> Result<()> { std::panic::resume_unwind(Box::new("bug")) })
        });
        assert_eq!(panic.unwrap_err().downcast_ref::<&str>(), Some(&"bug"));
    }
}
