//! Scoring requests: any bytes are requests or an error with a message, never a panic.
#![no_main]

use flanrt::score::Requests;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match Requests::parse("fuzz", bytes) {
        Ok(requests) => assert!(!requests.rows.is_empty()),
        Err(e) => assert!(e.message.contains("fuzz") && e.exit_code() == 3),
    }
});
