//! The data plane through real sockets: a server in this process between clients and endpoints that send exact bytes.

// A test that unwraps says at once what it did not expect; the helpers of tests do the same.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

#[path = "../support/proxy.rs"]
mod support;

mod changes;
mod clients;
mod dns;
mod endpoints;
mod forwarding;
mod frames;
mod framing;
mod h2;
mod hash;
mod mtls;
mod policies;
mod pressure;
mod proxy_headers;
mod proxy_protocol_in;
mod proxy_protocol_out;
mod proxy_protocol_servers;
mod rename;
mod retries;
mod shutdown;
mod sockets;
mod sticky;
mod tcp;
mod tcp_routes;
mod tcp_streams;
mod tls;
mod udp;
mod upgrade;
