//! The settings of the process: `[server]` of a configuration file. Read once, at the start.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{AdminHost, NameServer, Protection, duration};

/// The settings of the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// Worker threads, each with connections of its own. 1 to [`ServerConfig::WORKERS_MAX`]. Default: one per core.
    #[serde(deserialize_with = "deserialize_workers", skip_serializing_if = "Option::is_none")]
    pub workers: Option<usize>,
    /// The address of the admin API and dashboard, or `"off"`. Default `"127.0.0.1:8182"`.
    pub admin: Admin,
    /// Names by which the admin API may be asked for, `*.` standing for any labels: `"nuncio.internal"`, `"*.example.com"`. Requests by
    /// IP address or `localhost` are always answered, all others refused, because a web page could send them through a name of its own
    /// (DNS rebinding). Default: none.
    pub admin_hosts: Vec<AdminHost>,
    /// Who is asked for the names of endpoints, in place of the servers of `/etc/resolv.conf`: `["10.0.0.2:53"]`. Default port 53, at most 8.
    /// `/etc/hosts` comes first in any case, and the search domains of `/etc/resolv.conf` apply. Default: those of `/etc/resolv.conf`.
    #[serde(deserialize_with = "deserialize_name_servers", skip_serializing_if = "Vec::is_empty")]
    pub name_servers: Vec<NameServer>,
    /// Where is kept what must survive a restart: the key of sticky cookies, and what remote providers published last. Default: nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// How long requests in flight may go on after SIGTERM. Default 30 s.
    #[serde(with = "duration")]
    pub drain_timeout: Duration,
    /// One line per request, when present.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
    /// The key that sticky cookies are authenticated with: 64 hex digits, or the path of a file that holds them. Instances that
    /// share it accept each other's cookies. Default: one that is made at the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky_key: Option<StickyKey>,
    /// What protects the table from sources that lose their mind.
    pub protection: Protection,
    /// The least severe messages that are logged. Default `"info"`.
    pub log_level: LogLevel,
}

impl ServerConfig {
    /// The most worker threads.
    pub const WORKERS_MAX: usize = 1_024;
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            workers: None,
            admin: Admin::default(),
            admin_hosts: Vec::new(),
            name_servers: Vec::new(),
            data_dir: None,
            drain_timeout: Duration::from_secs(30),
            access_log: None,
            sticky_key: None,
            protection: Protection::default(),
            log_level: LogLevel::default(),
        }
    }
}

fn deserialize_name_servers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<NameServer>, D::Error> {
    let servers = Vec::deserialize(deserializer)?;
    NameServer::check("name_servers", &servers).map_err(serde::de::Error::custom)?;
    Ok(servers)
}

/// Whether, and where, the admin API listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admin {
    /// Nowhere.
    Off,
    /// On this address.
    Address(SocketAddr),
}

impl Admin {
    /// Reads `"off"` or an address to listen on.
    ///
    /// # Errors
    /// A sentence that says what an address looks like.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            _ => text
                .strip_prefix(':')
                .map_or_else(|| text.into(), |port| format!("{}:{port}", Ipv4Addr::UNSPECIFIED))
                .parse()
                .map(Self::Address)
                .map_err(|_| {
                    format!(
                        "`{text}` is not an address for the admin API, such as \"127.0.0.1:8182\", \"[::1]:8182\" or \":8182\", nor \"off\""
                    )
                }),
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self::Address(SocketAddr::from((Ipv4Addr::LOCALHOST, 8182)))
    }
}

impl Serialize for Admin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_str("off"),
            Self::Address(address) => serializer.collect_str(address),
        }
    }
}

impl<'de> Deserialize<'de> for Admin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// One line per request.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccessLog {
    /// Where it goes: `"stdout"` (default), or the path of a file.
    pub path: AccessLogPath,
    /// What a line looks like: `"json"` (default), or `"common"`.
    pub format: AccessLogFormat,
}

/// Where the access log goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AccessLogPath {
    /// Standard output.
    #[default]
    Stdout,
    /// Appended to a file.
    File(PathBuf),
}

impl Serialize for AccessLogPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Stdout => serializer.serialize_str("stdout"),
            Self::File(path) => serializer.serialize_str(&path.to_string_lossy()),
        }
    }
}

impl<'de> Deserialize<'de> for AccessLogPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "" => Err(serde::de::Error::custom("the path of an access log must not be empty")),
            "stdout" => Ok(Self::Stdout),
            _ => Ok(Self::File(text.into())),
        }
    }
}

/// What a line of the access log looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLogFormat {
    /// A JSON object with every field.
    #[default]
    Json,
    /// The Common Log Format of the NCSA server.
    Common,
}

/// The least severe messages that are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What failed.
    Error,
    /// What is likely to fail, or not as intended.
    Warn,
    /// What changed.
    #[default]
    Info,
    /// How decisions were made.
    Debug,
    /// Everything.
    Trace,
}

/// The shared key of sticky cookies, or the file that holds it.
#[derive(Clone, PartialEq, Eq)]
pub enum StickyKey {
    /// The key itself.
    Bytes([u8; StickyKey::BYTES]),
    /// A file that holds it as hex digits.
    Path(PathBuf),
}

impl StickyKey {
    /// The length of a key: that of the output of its hash function, SHA-256.
    pub const BYTES: usize = 32;

    /// Reads 64 hex digits, or a path: anything with a `/` or a `.` in it.
    ///
    /// # Errors
    /// A sentence that says how to make a key. It does not quote the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(bytes) = Self::parse_hex(text) {
            return Ok(Self::Bytes(bytes));
        }
        if text.contains(['/', '.']) {
            return Ok(Self::Path(text.into()));
        }
        Err("this is neither a key of 64 hex digits, as `openssl rand -hex 32` makes one, nor the path of a file, such as \"./sticky.key\""
            .into())
    }

    /// Reads 64 hex digits, white space around them aside: what a file holds.
    #[must_use]
    pub fn parse_hex(text: &str) -> Option<[u8; Self::BYTES]> {
        let digits = text.trim().as_bytes();
        if digits.len() != 2 * Self::BYTES {
            return None;
        }
        let mut bytes = [0; Self::BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let [high, low] = pair else { return None };
            let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Some(bytes)
    }
}

/// Never shows the key: debug output ends in logs.
impl fmt::Debug for StickyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(_) => f.write_str("StickyKey(…)"),
            Self::Path(path) => write!(f, "StickyKey({})", path.display()),
        }
    }
}

impl Serialize for StickyKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bytes(bytes) => serializer.serialize_str(&bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
            Self::Path(path) => serializer.serialize_str(&path.to_string_lossy()),
        }
    }
}

impl<'de> Deserialize<'de> for StickyKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

fn deserialize_workers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    let workers = u32::deserialize(deserializer)?;
    match usize::try_from(workers) {
        Ok(workers @ 1..=ServerConfig::WORKERS_MAX) => Ok(Some(workers)),
        _ => Err(serde::de::Error::custom(format!("{workers} workers are not possible: from 1 to {}", ServerConfig::WORKERS_MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(toml: &str) -> Result<ServerConfig, String> {
        toml::from_str(toml).map_err(|error| error.message().to_string())
    }

    #[test]
    fn everything_has_a_default() {
        assert_eq!(check(""), Ok(ServerConfig::default()));
    }

    #[test]
    fn survives_being_written_and_read() {
        let text = format!(
            "workers = 4\nadmin = \"off\"\nadmin_hosts = [\"*.example.com\"]\nname_servers = [\"10.0.0.2\", \"[fd00::2]:5353\"]\ndata_dir = \"/var/lib/nuncio\"\ndrain_timeout = \"1m\"\naccess_log = {{ path = \"/log\", format = \"common\" }}\nsticky_key = \"{}\"\nlog_level = \"debug\"\nprotection = {{ hold = \"1m\", gone_few = 3 }}",
            "0a".repeat(32)
        );
        let config = check(&text).unwrap();
        assert_eq!(config.sticky_key, Some(StickyKey::Bytes([10; 32])));
        assert_eq!(check(&toml::to_string(&config).unwrap()), Ok(config));
    }

    #[test]
    fn refuses_what_cannot_be() {
        for (text, expected) in [
            ("workers = 0", "0 workers"),
            ("workers = 2000", "2000 workers"),
            ("protection = { gone_percent = 101 }", "from 0 to 100"),
            ("admin = \"on\"", "nor \"off\""),
            ("admin_hosts = [\"a.test:80\"]", "leave out scheme, port"),
            ("name_servers = [\"dns.internal\"]", "not the address of a name server"),
            ("sticky_key = \"geheim\"", "64 hex digits"),
            ("access_log = { path = \"\" }", "must not be empty"),
        ] {
            let error = check(text).unwrap_err();
            assert!(error.contains(expected) && !error.contains("geheim"), "{error}");
        }
    }
}
