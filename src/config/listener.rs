//! A listener as it is wanted: the address we accept on, its protocol, TLS, whom it trusts, and its limits.

use std::num::NonZeroU32;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::listen_address::ListenAddress;
use super::{Pem, duration};
use crate::names::Name;
use crate::network;

/// An address to accept connections on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct Listener {
    /// IP address and port, such as `"0.0.0.0:8080"` or `"[::1]:8080"`; `":8080"` is every address, of IPv4 and IPv6. Port 0 takes a free
    /// one, `":61001-61010"` several. Or a unix socket, `"unix:/run/nuncio.sock"`, or one of systemd's, `"systemd:web"`.
    pub address: ListenAddress,
    /// Whether the IP address may be one that this machine does not have yet, such as a virtual one (`IP_FREEBIND`). Default: it must have it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub freebind: bool,
    /// What is spoken on it: `"http"` (default; HTTP/1.1 and HTTP/2), `"tcp"` or `"udp"`.
    #[serde(default)]
    pub protocol: ListenerProtocol,
    /// Terminates TLS when present. `{}` offers every certificate of the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    /// Networks and addresses of peers whose `X-Forwarded-*` and `Forwarded` headers, and PROXY headers, are believed. Default: none, so such
    /// headers from clients are dropped.
    #[serde(default, deserialize_with = "network::deserialize", skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<IpNet>,
    /// Whether connections begin with a PROXY header (HAProxy's PROXY protocol, version 1 or 2): `"off"` (default), `"optional"` or
    /// `"required"`. Only `trusted_proxies` may send one.
    #[serde(default)]
    pub proxy_protocol: ProxyProtocol,
    /// Which headers tell the endpoint about the client.
    #[serde(default)]
    pub forwarded: Forwarded,
    /// What becomes of a path with an encoded slash, `%2F`: `"refuse"` (default) or `"keep"`.
    #[serde(default)]
    pub encoded_slashes: EncodedSlashes,
    /// How long we wait for a client.
    #[serde(default)]
    pub timeouts: ListenerTimeouts,
    /// How much one client, and all of them, may use.
    #[serde(default)]
    pub limits: ListenerLimits,
}

impl Listener {
    /// A plain HTTP listener on `address`, all else at its default.
    #[must_use]
    pub fn http(address: ListenAddress) -> Self {
        Self {
            address,
            freebind: false,
            protocol: ListenerProtocol::Http,
            tls: None,
            trusted_proxies: Vec::new(),
            proxy_protocol: ProxyProtocol::default(),
            forwarded: Forwarded::default(),
            encoded_slashes: EncodedSlashes::default(),
            timeouts: ListenerTimeouts::default(),
            limits: ListenerLimits::default(),
        }
    }

    /// A TCP listener on `address`, all else at its default.
    #[must_use]
    pub fn tcp(address: ListenAddress) -> Self {
        Self { protocol: ListenerProtocol::Tcp, ..Self::http(address) }
    }

    /// A UDP listener on `address`, all else at its default.
    #[must_use]
    pub fn udp(address: ListenAddress) -> Self {
        Self { protocol: ListenerProtocol::Udp, ..Self::http(address) }
    }
}

impl Listener {
    /// Whether the fields go together.
    ///
    /// # Errors
    /// A sentence that names the first that does not.
    pub fn check(&self) -> Result<(), String> {
        let is_ip = matches!(self.address, ListenAddress::Ip(..) | ListenAddress::Any(_));
        if self.freebind && !is_ip {
            return Err(format!("`freebind` is about IP addresses, and does not apply to `{}`", self.address));
        }
        if self.protocol == ListenerProtocol::Udp && matches!(self.address, ListenAddress::Unix(_)) {
            return Err(format!("`{}` does not go with `protocol = \"udp\"`: unix sockets are for streams", self.address));
        }
        if self.protocol == ListenerProtocol::Udp {
            self.check_udp()?;
        } else if self.limits.sessions != ListenerLimits::default().sessions {
            return Err("`limits.sessions` is about UDP, and applies to `protocol = \"udp\"` alone".into());
        }
        if self.protocol == ListenerProtocol::Tcp {
            if !self.trusted_proxies.is_empty() && self.proxy_protocol == ProxyProtocol::Off {
                return Err(
                    "`trusted_proxies` does not apply to `protocol = \"tcp\"` without `proxy_protocol`: HTTP headers are not read".into()
                );
            }
            if self.forwarded != Forwarded::default() {
                return Err("`forwarded` is about HTTP headers, and does not apply to `protocol = \"tcp\"`".into());
            }
            if self.encoded_slashes != EncodedSlashes::default() {
                return Err("`encoded_slashes` is about HTTP paths, and does not apply to `protocol = \"tcp\"`".into());
            }
        }
        let alpn = self.tls.as_ref().map_or(&[][..], |tls| &tls.alpn);
        if self.protocol == ListenerProtocol::Http && !alpn.is_empty() {
            return Err("`tls.alpn` is for `protocol = \"tcp\"`: HTTP listeners speak h2 and http/1.1".into());
        }
        if alpn.iter().any(|protocol| protocol.is_empty() || protocol.len() > 255) {
            return Err("a protocol of `tls.alpn` has 1 to 255 bytes".into());
        }
        if self.proxy_protocol != ProxyProtocol::Off && self.trusted_proxies.is_empty() {
            return Err("`proxy_protocol` needs `trusted_proxies`: nobody else may send a PROXY header".into());
        }
        if self.timeouts.client_header.is_zero() || self.timeouts.client_idle.is_zero() {
            return Err("`timeouts` must be more than zero".into());
        }
        self.limits.check()
    }

    /// A UDP listener has an address and a number of sessions, and nothing else.
    fn check_udp(&self) -> Result<(), String> {
        let limits = ListenerLimits { sessions: self.limits.sessions, ..ListenerLimits::default() };
        let said = [
            ("tls", self.tls.is_some()),
            ("trusted_proxies", !self.trusted_proxies.is_empty()),
            ("proxy_protocol", self.proxy_protocol != ProxyProtocol::Off),
            ("forwarded", self.forwarded != Forwarded::default()),
            ("encoded_slashes", self.encoded_slashes != EncodedSlashes::default()),
            ("timeouts", self.timeouts != ListenerTimeouts::default()),
            ("limits` other than `sessions", self.limits != limits),
        ];
        match said.iter().find(|(_, is_said)| *is_said) {
            Some((key, _)) => Err(format!("`{key}` does not apply to `protocol = \"udp\"`")),
            None => Ok(()),
        }
    }
}

impl<'de> Deserialize<'de> for Listener {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let listener = Self::deserialize(deserializer)?;
        listener.check().map_err(serde::de::Error::custom)?;
        Ok(listener)
    }
}

impl Serialize for Listener {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

/// What is spoken on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenerProtocol {
    /// HTTP/1.1 and HTTP/2: by ALPN under TLS, by prior knowledge without.
    #[default]
    Http,
    /// A stream of bytes, forwarded as it is.
    Tcp,
    /// Datagrams, forwarded as they are.
    Udp,
}

/// Whether connections begin with a PROXY header, before TLS.
///
/// It says whose connection it is, so it is believed from `trusted_proxies` alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyProtocol {
    /// No: the first byte is the client's.
    #[default]
    Off,
    /// A trusted proxy may send one, and is waited for to send its first bytes; others' connections are taken as they are.
    Optional,
    /// Each does; a connection without one, or of who is not trusted, is closed.
    Required,
}

/// TLS of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenerTls {
    /// The certificates to choose from by SNI; the first is the default one. Empty: every certificate of the table.
    pub certificates: Vec<Name>,
    /// Asks clients for a certificate: mutual TLS. `{}` takes only those that the `ca` of the first certificate has signed. Default: clients
    /// are not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_auth: Option<ClientAuth>,
    /// The oldest version accepted: `"1.2"` (default) or `"1.3"`.
    pub min_version: TlsVersion,
    /// The application protocols that a TCP listener speaks by way of its endpoints, such as `["h2"]`. Default: none is negotiated. HTTP
    /// listeners know their own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alpn: Vec<String>,
}

/// Which certificates clients must show.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientAuth {
    /// The CAs that sign them, as a path or PEM text. Default: the `ca` of the listener's first certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<Pem>,
    /// What becomes of a client without one: `"required"` (default), it is refused; `"optional"`, it is taken, and no `ClientCert` takes it.
    pub mode: ClientAuthMode,
}

/// What becomes of a client without a certificate. One with a certificate that was not signed by a CA of ours is always refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuthMode {
    /// It is refused.
    #[default]
    Required,
    /// It is taken.
    Optional,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    #[default]
    #[serde(rename = "1.2")]
    V12,
    /// TLS 1.3 (RFC 8446).
    #[serde(rename = "1.3")]
    V13,
}

/// Which headers tell the endpoint about the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Forwarded {
    /// `X-Forwarded-For`, `-Proto`, `-Host` and `-Port`.
    #[default]
    XForwarded,
    /// `Forwarded` of RFC 7239.
    Rfc7239,
    /// Both.
    Both,
    /// Neither: the endpoint learns nothing of the client.
    Off,
}

/// What becomes of a path with an encoded slash, `%2F`.
///
/// It is data to us, and a separator to many an endpoint: `/public%2F..%2Fadmin` is below `/public` here and may be `/admin` there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EncodedSlashes {
    /// It is answered 400.
    #[default]
    Refuse,
    /// It is matched and forwarded as it is: for endpoints that take it for data too.
    Keep,
}

/// How long a listener waits for its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenerTimeouts {
    /// For a whole request head, for the TLS handshake, and for a PROXY header. Default 10 s.
    #[serde(with = "duration")]
    pub client_header: Duration,
    /// Between two requests of a connection, and between two pieces of a request body. Default 75 s.
    #[serde(with = "duration")]
    pub client_idle: Duration,
}

impl Default for ListenerTimeouts {
    fn default() -> Self {
        Self { client_header: Duration::from_secs(10), client_idle: Duration::from_secs(75) }
    }
}

/// Bounds on what clients of a listener may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenerLimits {
    /// Connections at once, over all workers. Further ones are closed when accepted. Default 65,536.
    pub connections: u32,
    /// Connections at once of one client, of those: its address, or what a PROXY header says it is; of IPv6 the first 64 bits. Further ones
    /// are closed. Default: not limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections_per_client: Option<NonZeroU32>,
    /// Bytes of a request head. Default 65,536.
    pub header_bytes: u32,
    /// Header fields of a request. Default 100.
    pub headers: u16,
    /// Bytes of a request target. Default 16,384.
    pub uri_bytes: u16,
    /// Streams at once on one HTTP/2 connection. Default 200.
    pub h2_streams: u32,
    /// Anomalies (streams reset before they ended, empty frames, settings and pings beyond need) that one HTTP/2 connection may
    /// show before it is closed. Answered requests, time and bytes taken make up for them. Default 1,000.
    pub h2_anomalies: u32,
    /// UDP sessions at once, over all workers: one per client address and port. When there are as many, the one of the same worker
    /// that was silent for the longest gives way to the next. Each has a descriptor, and one of the ports of `net.ipv4.ip_local_port_range`. Default 65,536.
    pub sessions: u32,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            connections: 65_536,
            connections_per_client: None,
            header_bytes: 65_536,
            headers: 100,
            uri_bytes: 16_384,
            h2_streams: 200,
            h2_anomalies: 1_000,
            sessions: 65_536,
        }
    }
}

impl ListenerLimits {
    /// The fewest bytes of a request head that a limit may leave: hyper's buffer is never smaller.
    pub const HEADER_BYTES_MIN: u32 = 8_192;

    fn check(&self) -> Result<(), String> {
        let Self { connections, connections_per_client: _, header_bytes, headers, uri_bytes, h2_streams, h2_anomalies, sessions } = *self;
        let all = [connections, header_bytes, headers.into(), uri_bytes.into(), h2_streams, h2_anomalies, sessions];
        if all.contains(&0) {
            return Err("`limits` must be more than zero".into());
        }
        if header_bytes < Self::HEADER_BYTES_MIN {
            return Err(format!("`limits` must leave {} bytes to `header_bytes`, or more", Self::HEADER_BYTES_MIN));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_does_not_apply() {
        let check = |json: &str| serde_json::from_str::<Listener>(json).map_err(|error| error.to_string());
        assert!(check(r#"{"address":":1","protocol":"tcp","trusted_proxies":["10.0.0.0/8"]}"#).unwrap_err().contains("does not apply"));
        assert!(check(r#"{"address":":1","protocol":"tcp","forwarded":"both"}"#).unwrap_err().contains("does not apply"));
        assert!(check(r#"{"address":":1","protocol":"tcp","encoded_slashes":"keep"}"#).unwrap_err().contains("does not apply"));
        assert!(check(r#"{"address":":1","timeouts":{"client_idle":"0s"}}"#).unwrap_err().contains("more than zero"));
        assert!(check(r#"{"address":":1","limits":{"headers":0}}"#).unwrap_err().contains("more than zero"));
        assert!(check(r#"{"address":":1","limits":{"header_bytes":100}}"#).unwrap_err().contains("8192 bytes"));
        for protocol in ["http", "tcp"] {
            let told = |more: &str| check(&format!(r#"{{"address":":1","protocol":"{protocol}","proxy_protocol":"required"{more}}}"#));
            assert!(told("").unwrap_err().contains("needs `trusted_proxies`"));
            assert_eq!(told(r#","trusted_proxies":["10.0.0.0/8"]"#).unwrap().proxy_protocol, ProxyProtocol::Required);
        }
        for (json, key) in [
            (r#""tls":{}"#, "`tls`"),
            (r#""timeouts":{"client_idle":"1s"}"#, "`timeouts`"),
            (r#""limits":{"connections":1}"#, "`limits` other than `sessions`"),
        ] {
            let error = check(&format!(r#"{{"address":":1","protocol":"udp",{json}}}"#)).unwrap_err();
            assert!(error.contains(key) && error.contains("does not apply"), "{error}");
        }
        assert!(check(r#"{"address":":1","protocol":"udp","limits":{"sessions":5}}"#).is_ok());
        assert!(check(r#"{"address":":1","limits":{"sessions":5}}"#).unwrap_err().contains("about UDP"));
        let listener = check(r#"{"address":":1","protocol":"tcp"}"#).unwrap();
        assert_eq!(check(&serde_json::to_string(&listener).unwrap()), Ok(listener));
    }
}
