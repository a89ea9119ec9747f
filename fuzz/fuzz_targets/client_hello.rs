//! What a TLS client sends first, whole and in two parts: it is understood, refused with a reason, or waited for, never longer than it may be.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nuncio::proxy::client_hello::{HELLO_BYTES_MAX, Reading, read};

fuzz_target!(|bytes: &[u8]| {
    let whole = read(bytes);
    match &whole {
        Reading::Hello(hello) => {
            assert!(hello.sni().is_none_or(|name| name.len() <= bytes.len()));
            assert!(hello.alpn().iter().map(|name| name.len()).sum::<usize>() <= bytes.len());
        }
        Reading::Partial => assert!(bytes.len() < HELLO_BYTES_MAX),
        Reading::Other | Reading::Broken(_) => {}
    }
    // What was said of the beginning holds for the whole, unless it was that more is needed.
    let beginning = read(&bytes[..bytes.len() / 2]);
    assert!(beginning == Reading::Partial || beginning == whole, "{beginning:?}, then {whole:?}");
});
