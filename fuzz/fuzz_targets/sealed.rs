//! A value that claims to be sealed, as it is and behind base64: it is opened, or refused with a reason, and never grows beyond bounds.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use nuncio::discovery::kv::sealed::{Keys, OPENED_BYTES_MAX, is_sealed};

static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys::parse(include_bytes!("../fixtures/secret.asc"), None).expect("a ring"));

fuzz_target!(|bytes: &[u8]| {
    let _ = is_sealed(bytes);
    match KEYS.open(bytes) {
        Ok(value) => assert!(value.len() <= OPENED_BYTES_MAX),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if let Ok(keys) = Keys::parse(bytes, Some(b"x")) {
        assert!(format!("{keys:?}").starts_with("Keys("));
    }
});
