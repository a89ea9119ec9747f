//! HTTP/2 by hand: frames and header blocks as a test wants them (RFC 9113, RFC 7541).

use bytes::Bytes;

use crate::support::*;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
/// Of SETTINGS and PING.
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// Of the static table: `:status` 200 is entry 8, 400 is entry 12.
pub const STATUS_200: u8 = 0x88;
pub const STATUS_400: u8 = 0x8c;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block of literals (RFC 7541 section 6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    let text = |block: &mut Vec<u8>, text: &str| {
        let length = text.len();
        if length < 127 {
            block.push(length as u8);
        } else {
            block.extend([127, ((length - 127) & 127) as u8 | 128, ((length - 127) >> 7) as u8]);
        }
        block.extend(text.as_bytes());
    };
    for (name, value) in fields {
        block.push(0);
        text(&mut block, name);
        text(&mut block, value);
    }
    block
}

pub const REQUEST: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a.test")];

pub fn request(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&REQUEST))
}

/// A connection with its preface and settings exchanged.
pub async fn connect(proxy: &Proxy) -> Wire {
    let mut client = proxy.connect().await;
    client.send([&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &[]), &frame(SETTINGS, ACK, 0, &[])].concat()).await;
    client
}

/// A frame as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Bytes,
}

impl Frame {
    /// Of a GOAWAY: the last stream that is, or may yet be, processed, and the error code.
    pub fn goaway(&self) -> (u32, u32) {
        assert_eq!((self.kind, self.stream), (GOAWAY, 0), "{self:?}");
        (word(&self.payload), word(&self.payload[4..]))
    }

    pub fn is_last(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}

/// The next frame. None: the end.
pub async fn next_frame(wire: &mut Wire) -> Option<Frame> {
    let read = async {
        let head = wire.try_read(9).await?;
        let (length, stream) = (word(&[&[0], &head[..3]].concat()), word(&head[5..]));
        let payload = wire.try_read(length as usize).await?;
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    };
    within("a frame", read).await
}

/// The next frame that is not about settings and windows. None: the end.
pub async fn next_event(wire: &mut Wire) -> Option<Frame> {
    loop {
        match next_frame(wire).await {
            Some(Frame { kind: SETTINGS | WINDOW_UPDATE, .. }) => {}
            other => return other,
        }
    }
}
