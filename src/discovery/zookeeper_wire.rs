//! ZooKeeper's wire format, as much of it as a reader needs: requests → bytes, bytes → what servers answer and announce. Pure.
//!
//! Every message is an `int32` with its length, and then that many bytes. Numbers are big endian. Texts and byte strings are an `int32`
//! with their length, -1 for none, and the bytes; lists are an `int32` with the number of their elements, and those.

/// The bytes of a length.
pub(super) const LENGTH_BYTES: usize = 4;
/// The bytes of the header of all messages of a server but the first: `xid`, `zxid`, error.
pub(super) const HEADER_BYTES: usize = 16;
/// What `Stat` takes, at the end of what reads answer.
pub(super) const STAT_BYTES: usize = 68;

/// What we ask of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    /// Says who we are.
    Auth { user: &'a str, password: &'a str },
    /// Keeps the session alive.
    Ping,
    /// Ends the session.
    Close,
    /// Lets the server catch up with its leader before it answers what comes after.
    Sync(&'a str),
    /// Announces every change of a znode and of all below it from now on.
    Watch(&'a str),
    /// The data of a znode.
    Data(&'a str),
    /// The names of a znode's children.
    Children(&'a str),
    /// Makes a znode that everyone may do everything with: one that goes with the session, or stays.
    Create { path: &'a str, data: &'a [u8], is_ephemeral: bool },
    /// Deletes a znode, whatever is in it.
    Delete(&'a str),
}

/// Numbers of requests that are no requests of their own.
pub(super) const XID_EVENT: i32 = -1;
pub(super) const XID_PING: i32 = -2;
pub(super) const XID_AUTH: i32 = -4;

/// The znode above is ephemeral.
pub(super) const NO_CHILDREN: i32 = -108;
/// There are znodes below.
pub(super) const NOT_EMPTY: i32 = -111;
/// There is such a znode already.
pub(crate) const NODE_EXISTS: i32 = -110;
/// There is no such znode.
pub(crate) const NO_NODE: i32 = -101;
/// We may not do that.
pub(super) const NO_AUTH: i32 = -102;
/// The server knows no such request.
pub(super) const UNIMPLEMENTED: i32 = -6;

impl Request<'_> {
    /// The message, with its length, as the request of number `xid`. Some have numbers of their own.
    pub(super) fn encode(&self, xid: i32) -> Vec<u8> {
        let mut body = Vec::new();
        let (xid, kind) = match self {
            Self::Auth { user, password } => {
                put_i32(&mut body, 0);
                put_bytes(&mut body, b"digest");
                put_bytes(&mut body, format!("{user}:{password}").as_bytes());
                (XID_AUTH, 100)
            }
            Self::Ping => (XID_PING, 11),
            Self::Close => (xid, -11),
            Self::Sync(path) => {
                put_bytes(&mut body, path.as_bytes());
                (xid, 9)
            }
            Self::Watch(path) => {
                put_bytes(&mut body, path.as_bytes());
                // Persistent, and recursive.
                put_i32(&mut body, 1);
                (xid, 106)
            }
            Self::Data(path) | Self::Children(path) => {
                put_bytes(&mut body, path.as_bytes());
                // Without a watch of its own.
                body.push(0);
                (xid, if matches!(self, Self::Data(_)) { 4 } else { 12 })
            }
            Self::Create { path, data, is_ephemeral } => {
                const ALL: i32 = 31;
                put_bytes(&mut body, path.as_bytes());
                put_bytes(&mut body, data);
                put_i32(&mut body, 1);
                put_i32(&mut body, ALL);
                put_bytes(&mut body, b"world");
                put_bytes(&mut body, b"anyone");
                put_i32(&mut body, i32::from(*is_ephemeral));
                (xid, 1)
            }
            Self::Delete(path) => {
                put_bytes(&mut body, path.as_bytes());
                // Of any version.
                put_i32(&mut body, -1);
                (xid, 2)
            }
        };
        let header = [xid.to_be_bytes(), i32::to_be_bytes(kind)].concat();
        framed(&[header, body].concat())
    }
}

/// The first message of a connection: asks for a new session that lasts this long without a sign of life.
pub(super) fn connect(timeout_ms: i32) -> Vec<u8> {
    let mut body = Vec::new();
    put_i32(&mut body, 0);
    // The last zxid seen. None: a server that lags behind is made to catch up by `Request::Sync`, and one that was restored is welcome.
    body.extend_from_slice(&0_i64.to_be_bytes());
    put_i32(&mut body, timeout_ms);
    body.extend_from_slice(&0_i64.to_be_bytes());
    put_bytes(&mut body, &[0; 16]);
    // Not to be answered by a server that has lost its ensemble.
    body.push(0);
    framed(&body)
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(LENGTH_BYTES + body.len());
    put_bytes(&mut message, body);
    message
}

fn put_i32(to: &mut Vec<u8>, number: i32) {
    to.extend_from_slice(&number.to_be_bytes());
}

fn put_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    // Paths and credentials are bounded far below this.
    put_i32(to, i32::try_from(bytes.len()).unwrap_or(i32::MAX));
    to.extend_from_slice(bytes);
}

/// What stands at the start of all messages of a server but the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) xid: i32,
    /// The last change that the server has seen.
    pub(super) zxid: i64,
    /// 0: none.
    pub(super) error: i32,
}

/// What a server knows of a znode beside its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stat {
    /// The change that last wrote the data.
    pub(super) mzxid: i64,
    /// Whether the znode goes without being deleted: with the session of who made it, or after a time.
    pub(super) is_ephemeral: bool,
    pub(super) children: i32,
    /// The change that last made or deleted a child.
    pub(super) pzxid: i64,
}

/// What happened to a znode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventKind {
    Created,
    Deleted,
    DataChanged,
    /// Of its children, which say themselves what happened to them.
    ChildrenChanged,
}

/// The bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server breaks the protocol: {0}")]
pub(crate) struct Broken(pub(super) &'static str);

/// A server's answer to [`connect`], without its length: how long the session lasts without a sign of life, in milliseconds.
pub(super) fn connected(body: &[u8]) -> Result<u64, Broken> {
    let mut reader = Reader(body);
    reader.i32()?;
    let timeout = u64::try_from(reader.i32()?).unwrap_or_default();
    let session = reader.i64()?;
    if session == 0 || timeout == 0 {
        return Err(Broken("it gives no session"));
    }
    Ok(timeout)
}

/// The header, and how many bytes of the message are behind it.
pub(super) fn header(message: &[u8]) -> Result<Option<(Header, usize)>, Broken> {
    let Some(start) = message.get(..LENGTH_BYTES + HEADER_BYTES) else { return Ok(None) };
    let mut reader = Reader(start);
    let length = usize::try_from(reader.i32()?).map_err(|_| Broken("a length is negative"))?;
    let body = length.checked_sub(HEADER_BYTES).ok_or(Broken("a message is too short"))?;
    Ok(Some((Header { xid: reader.i32()?, zxid: reader.i64()?, error: reader.i32()? }, body)))
}

/// What is behind the header of an event. The path is none of ours if it is no text.
pub(super) fn event(body: &[u8]) -> Result<(EventKind, String), Broken> {
    let mut reader = Reader(body);
    let kind = match reader.i32()? {
        1 => EventKind::Created,
        2 => EventKind::Deleted,
        3 => EventKind::DataChanged,
        4 => EventKind::ChildrenChanged,
        _ => return Err(Broken("an event is of no known kind")),
    };
    reader.i32()?;
    Ok((kind, reader.text()?))
}

/// What is behind the header of the answer to [`Request::Data`].
pub(crate) fn data(body: &[u8]) -> Result<(&[u8], Stat), Broken> {
    let mut reader = Reader(body);
    Ok((reader.bytes()?, reader.stat()?))
}

/// What is behind the header of the answer to [`Request::Children`].
pub(super) fn children(body: &[u8]) -> Result<(Vec<String>, Stat), Broken> {
    let mut reader = Reader(body);
    let count = usize::try_from(reader.i32()?).unwrap_or_default();
    // No reservation: the count is only what someone says.
    let mut names = Vec::new();
    for _ in 0..count {
        names.push(reader.text()?);
    }
    Ok((names, reader.stat()?))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Broken> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Broken("a message ends too soon"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        self.take(N)?.try_into().map_err(|_| Broken("a message ends too soon"))
    }

    fn i32(&mut self) -> Result<i32, Broken> {
        self.array().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, Broken> {
        self.array().map(i64::from_be_bytes)
    }

    /// None are as good as no bytes.
    fn bytes(&mut self) -> Result<&'a [u8], Broken> {
        let length = self.i32()?;
        self.take(usize::try_from(length).unwrap_or_default())
    }

    fn text(&mut self) -> Result<String, Broken> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| Broken("a path is no UTF-8"))
    }

    fn stat(&mut self) -> Result<Stat, Broken> {
        /// Of a znode that the server deletes once it has no children any more. It has no data to speak of.
        const CONTAINER: i64 = i64::MIN;
        let _czxid = self.i64()?;
        let mzxid = self.i64()?;
        let _times = self.take(16)?;
        let _versions = self.take(12)?;
        let owner = self.i64()?;
        let _data_length = self.i32()?;
        let children = self.i32()?;
        let pzxid = self.i64()?;
        Ok(Stat { mzxid, is_ephemeral: owner != 0 && owner != CONTAINER, children, pzxid })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stat(mzxid: i64, owner: i64, children: i32) -> Vec<u8> {
        let mut stat = Vec::new();
        for number in [1, mzxid, 3, 4] {
            stat.extend_from_slice(&i64::to_be_bytes(number));
        }
        stat.extend_from_slice(&[0; 12]);
        stat.extend_from_slice(&owner.to_be_bytes());
        put_i32(&mut stat, 2);
        put_i32(&mut stat, children);
        stat.extend_from_slice(&9_i64.to_be_bytes());
        assert_eq!(stat.len(), STAT_BYTES);
        stat
    }

    #[test]
    fn requests_are_as_servers_expect_them() {
        assert_eq!(Request::Ping.encode(7), [0, 0, 0, 8, 0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 11]);
        assert_eq!(Request::Data("/a").encode(7), [0, 0, 0, 15, 0, 0, 0, 7, 0, 0, 0, 4, 0, 0, 0, 2, b'/', b'a', 0]);
        assert_eq!(Request::Watch("/").encode(1), [0, 0, 0, 17, 0, 0, 0, 1, 0, 0, 0, 106, 0, 0, 0, 1, b'/', 0, 0, 0, 1]);
        let auth = Request::Auth { user: "a", password: "b" }.encode(7);
        assert!(auth.ends_with(b"digest\0\0\0\x03a:b") && auth.get(4..8) == Some(&[0xff, 0xff, 0xff, 0xfc]));
        let create = Request::Create { path: "/a", data: b"x", is_ephemeral: true }.encode(7);
        let acl = [[0, 0, 0, 1, 0, 0, 0, 31, 0, 0, 0, 5].as_slice(), b"world", &[0, 0, 0, 6], b"anyone", &[0, 0, 0, 1]].concat();
        assert_eq!(create, [[0, 0, 0, 50, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 2, b'/', b'a', 0, 0, 0, 1, b'x'].as_slice(), &acl].concat());
        assert_eq!(Request::Delete("/").encode(7), [0, 0, 0, 17, 0, 0, 0, 7, 0, 0, 0, 2, 0, 0, 0, 1, b'/', 255, 255, 255, 255]);
        let connect = connect(6000);
        assert_eq!((connect.len(), connect.get(16..20)), (4 + 45, Some(6000_i32.to_be_bytes().as_slice())));
    }

    #[test]
    fn answers_are_read() {
        let body = [[0, 0, 0, 2, b'h', b'i'].as_slice(), &stat(7, 42, 3)].concat();
        assert_eq!(data(&body), Ok((b"hi".as_slice(), Stat { mzxid: 7, is_ephemeral: true, children: 3, pzxid: 9 })));
        let none = [[0xff; 4].as_slice(), &stat(7, 0, 0)].concat();
        assert_eq!(data(&none).map(|(data, stat)| (data.len(), stat.is_ephemeral)), Ok((0, false)));
        let container = [[0xff; 4].as_slice(), &stat(7, i64::MIN, 0)].concat();
        assert_eq!(data(&container).map(|(_, stat)| stat.is_ephemeral), Ok(false));
        let body = [[0, 0, 0, 2, 0, 0, 0, 1, b'a', 0, 0, 0, 1, b'b'].as_slice(), &stat(7, 0, 2)].concat();
        assert_eq!(children(&body).map(|(names, _)| names), Ok(vec!["a".into(), "b".into()]));
        let body = [0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 2, b'/', b'a'];
        assert_eq!(event(&body), Ok((EventKind::Deleted, "/a".into())));
        let message = [[0, 0, 0, 18, 0, 0, 0, 7].as_slice(), &8_i64.to_be_bytes(), &(-101_i32).to_be_bytes(), b"xx"].concat();
        assert_eq!(header(&message), Ok(Some((Header { xid: 7, zxid: 8, error: NO_NODE }, 2))));
        assert_eq!(header(&message[..19]), Ok(None));
    }

    #[test]
    fn a_session_is_one() {
        let answer = |timeout: i32, session: i64| [[0; 4], timeout.to_be_bytes()].concat().into_iter().chain(session.to_be_bytes());
        assert_eq!(connected(&answer(4000, 77).collect::<Vec<_>>()), Ok(4000));
        for none in [answer(0, 0), answer(4000, 0), answer(-1, 7)] {
            assert!(connected(&none.collect::<Vec<_>>()).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = (connected(&bytes), header(&bytes), event(&bytes), data(&bytes), children(&bytes));
        }

        #[test]
        fn what_is_cut_is_refused(cut in 0..88_usize) {
            let body = [[0, 0, 0, 2, 0, 0, 0, 1, b'a', 0, 0, 0, 7].as_slice(), b"bcdefgh", &stat(7, 0, 2)].concat();
            prop_assert!(children(&body[..cut]).is_err());
        }
    }
}
