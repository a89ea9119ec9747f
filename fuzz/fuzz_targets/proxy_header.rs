//! PROXY headers: no bytes panic; what is read is written and read back alike; and whether bytes are a header does not depend on how they come.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nuncio::proxy_protocol::tlv::{CRC32C, SSL, UNIQUE_ID};
use nuncio::proxy_protocol::{HEADER_BYTES_MAX, Header, Source, V1_BYTES_MAX, Version, parse};

fuzz_target!(|bytes: &[u8]| {
    let parsed = parse(bytes);
    comes_piece_by_piece(bytes);
    let (header, used) = match parsed {
        Ok(Some(header)) => header,
        Ok(None) => return assert!(bytes.len() < HEADER_BYTES_MAX, "no header needs more"),
        Err(_) => return,
    };
    assert!(used <= bytes.len() && used <= HEADER_BYTES_MAX);
    assert_eq!(parse(&bytes[..used]), Ok(Some((header.clone(), used))), "what follows says nothing");
    if bytes.starts_with(b"PROXY ") {
        assert!(used <= V1_BYTES_MAX && bytes[..used].ends_with(b"\r\n"));
    }
    holds_what_it_says(&header);
    is_read_back(&header);
});

/// What is known early stays so.
fn comes_piece_by_piece(bytes: &[u8]) {
    let whole = parse(bytes);
    // All cuts of what is short, some of what is long.
    let step = bytes.len() / 64 + 1;
    for cut in (0..bytes.len()).step_by(step) {
        match parse(&bytes[..cut]) {
            Ok(None) => {}
            known => assert_eq!(known, whole, "after {cut} bytes"),
        }
    }
}

fn holds_what_it_says(header: &Header) {
    let bytes: usize = header.tlvs.iter().map(|(_, value)| 3 + value.len()).sum();
    assert_eq!(bytes, header.tlvs.as_bytes().len());
    assert!(header.tlvs.iter().all(|(kind, value)| kind != SSL || value.len() >= 5));
    assert!(header.tlvs.iter().all(|(kind, value)| kind != UNIQUE_ID || value.len() <= 128));
    assert_eq!(header.tlvs.is_tls().is_some(), header.tlvs.get(SSL).is_some());
    if header.source == Source::Local {
        assert!(header.tlvs.as_bytes().is_empty());
    }
}

fn is_read_back(header: &Header) {
    let canonical = |header: &Header| match header.source {
        Source::Client { source, destination } => Some([source, destination].map(|address| (address.ip().to_canonical(), address.port()))),
        Source::Local | Source::Unknown => None,
    };
    let v1 = header.write(Version::V1);
    let (read, used) = parse(&v1).unwrap().unwrap();
    assert!(used == v1.len() && canonical(&read) == canonical(header));
    // Its checksum is that of another header.
    if header.tlvs.get(CRC32C).is_some() {
        return;
    }
    let v2 = header.write(Version::V2);
    if v2.len() > HEADER_BYTES_MAX {
        // IPv4 that became IPv6, with as many TLVs as there may be.
        return assert!(parse(&v2).is_err());
    }
    let (read, used) = parse(&v2).unwrap().unwrap();
    assert!(used == v2.len() && canonical(&read) == canonical(header) && read.tlvs == header.tlvs);
    assert_eq!(read.source == Source::Local, header.source == Source::Local);
}
