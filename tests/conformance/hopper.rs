//! The cases of `hopper_sm90.cu`.

use crate::cases::Case;

/// All cases of `hopper_sm90.cu`.
pub(crate) fn all() -> Vec<Case> {
    Vec::new()
}
