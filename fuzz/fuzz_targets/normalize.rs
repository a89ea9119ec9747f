//! Hosts and paths of requests: one spelling, and none that means something else to an endpoint.

#![no_main]

use std::borrow::Cow;

use libfuzzer_sys::fuzz_target;
use nuncio::rule::{normalize_host, path};
use percent_encoding::percent_decode_str;

fuzz_target!(|text: &str| {
    path(text);
    host(text);
});

fn path(text: &str) {
    let Ok(normal) = path::normalize(text) else { return };
    assert!(normal.starts_with('/'), "{normal:?} is absolute");
    assert!(!normal.contains("//"), "{normal:?} has no empty segment");
    assert!(normal.bytes().all(|byte| byte.is_ascii_graphic() && !b"\\?#\"<>{}|^`".contains(&byte)), "{normal:?} is a path of RFC 3986");
    assert_eq!(path::normalize(&normal), Ok(Cow::Borrowed(&*normal)), "normalising again changes nothing");
    let decoded = normal.replace("%2F", "/");
    assert!(!decoded.split('/').any(is_dots), "{normal:?} has no dot segment, even to who decodes its slashes");
    assert_eq!(decode(normal.split('/')), model(text), "{text:?} and {normal:?} are the same path");
    let is_folder = |path: &str| matches!(&*decode_one(path.rsplit('/').next().unwrap_or_default()), b"" | b"." | b"..");
    assert_eq!(is_folder(text), is_folder(&normal), "a slash at the end of {text:?} counts");
}

/// The decoded segments of a path, by the definition: empty and dot segments gone, each `..` with the one before it.
fn model(path: &str) -> Vec<Vec<u8>> {
    let mut segments = Vec::new();
    for segment in path.split('/').map(decode_one) {
        match &*segment {
            b"" | b"." => (),
            b".." => drop(segments.pop().expect("a path that climbs above its root is refused")),
            _ => segments.push(segment),
        }
    }
    segments
}

fn decode<'a>(segments: impl Iterator<Item = &'a str>) -> Vec<Vec<u8>> {
    segments.filter(|segment| !segment.is_empty()).map(decode_one).collect()
}

fn decode_one(segment: &str) -> Vec<u8> {
    percent_decode_str(segment).collect()
}

fn is_dots(segment: &str) -> bool {
    matches!(segment, "." | "..")
}

fn host(text: &str) {
    let Ok(normal) = normalize_host(text) else { return };
    assert!(!normal.is_empty() && !normal.ends_with('.'), "{normal:?} is a host without its final dot");
    assert_eq!(normal, normal.to_ascii_lowercase(), "a host is in lower case");
    assert!(normal.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#@%\\".contains(&byte)), "{normal:?} is a host");
    assert!(normal.starts_with('[') || !normal.contains(':'), "{normal:?} has no port");
    assert_eq!(normalize_host(&normal).as_deref(), Ok(&*normal), "normalising again changes nothing");
    assert_eq!(normalize_host(&format!("{normal}:8080")).as_deref(), Ok(&*normal), "a port says nothing of the host");
}
