//! HTTP/1.1 towards endpoints (RFC 9112).
//!
//! A client of our own, because an exchange then reads and writes its connection itself: no task per connection, no channel and no
//! wake-up per request, the client's head is not copied, and what happens on an idle connection is seen at the moment it is taken from the pool.
//! Measured against hyper's client: a third fewer instructions for a request.
//!
//! | file | concept |
//! |---|---|
//! | `request` | the head of a request as bytes |
//! | `upload` | a request on its way: head, then body in the framing that the head has named |
//! | [`response`] | bytes → the head of a response, and where it ends |
//! | [`chunked`] | bytes → a body in chunks |
//! | `connection` | a connection: sends a request, brings its response |
//!
//! `response` and `chunked` are pure, and fuzzed: what they give does not depend on how the bytes were cut.

pub mod chunked;
mod connection;
mod request;
pub mod response;
mod upload;

pub(super) use connection::{Answer, Connection, Download, Error, Failed};
