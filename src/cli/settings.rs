//! The settings of the process: what `[server]` of the file says, and the flags that override it.

use std::path::PathBuf;
use std::time::Duration;

use nuncio::access;
use nuncio::config::providers::{MeshConfig, check_identity};
use nuncio::config::server::{AccessLog, AccessLogFormat, AccessLogPath, Admin, LogLevel};
use nuncio::config::{AdminHost, NameServer, ServerConfig, parse_duration};
use nuncio::control::check::sticky_key;
use nuncio::discovery::NameServers;
use nuncio::server::ServerBuilder;

use super::Failure;

/// Flags that override `[server]`.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Process")]
pub(super) struct Flags {
    /// Where the admin API listens, or "off". It has no authentication: keep it on loopback [default: 127.0.0.1:8182]
    #[arg(long, value_name = "ADDR|off", value_parser = Admin::parse)]
    admin: Option<Admin>,
    /// A name by which the admin API may be asked for, or "*.example.com" for all below one. Addresses and localhost need none
    #[arg(long, value_name = "NAME", value_parser = AdminHost::parse)]
    admin_host: Vec<AdminHost>,
    /// Who is asked for the names of endpoints, such as 10.0.0.2:53 [default: the servers of /etc/resolv.conf]
    #[arg(long, value_name = "ADDR", value_parser = NameServer::parse)]
    name_server: Vec<NameServer>,
    /// Worker threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = parse_workers)]
    workers: Option<usize>,
    /// Keeps what must survive a restart, such as the key of sticky cookies [default: $STATE_DIRECTORY, as systemd sets it, or none]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// How long requests in flight may go on after SIGTERM [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    drain_timeout: Option<Duration>,
    /// Joins a mesh by its token, as `nuncio mesh init` prints it, or a file that holds it: provides the certificate `mesh`
    #[arg(long, value_name = "TOKEN|FILE", env = "NUNCIO_JOIN", hide_env_values = true)]
    join: Option<String>,
    /// Who we are in the mesh: spiffe://TRUST-DOMAIN/NAME [default: the name of this host]
    #[arg(long, value_name = "NAME", env = "NUNCIO_JOIN_AS", requires = "join", value_parser = parse_identity)]
    join_as: Option<String>,
    /// One line per request, appended to a file, or "-" for standard output [default: none]
    #[arg(long, value_name = "PATH|-")]
    access_log: Option<PathBuf>,
    /// What such a line looks like: json or common [default: json]
    #[arg(long, value_name = "FORMAT", value_parser = parse_format)]
    access_log_format: Option<AccessLogFormat>,
    /// What is logged: error, warn, info, debug or trace. RUST_LOG counts more [default: info]
    #[arg(long, value_name = "LEVEL", value_parser = parse_level)]
    log_level: Option<LogLevel>,
    /// Logs more: -v as --log-level debug, -vv as trace
    #[arg(short, long, action = clap::ArgAction::Count, conflicts_with = "log_level")]
    verbose: u8,
}

impl Flags {
    /// The settings of `file` with those that were given as flags in their place.
    pub(super) fn over(&self, file: ServerConfig) -> ServerConfig {
        ServerConfig {
            admin: self.admin.unwrap_or(file.admin),
            admin_hosts: if self.admin_host.is_empty() { file.admin_hosts } else { self.admin_host.clone() },
            name_servers: if self.name_server.is_empty() { file.name_servers } else { self.name_server.clone() },
            workers: self.workers.or(file.workers),
            data_dir: self.data_dir.clone().or(file.data_dir).or_else(state_directory),
            drain_timeout: self.drain_timeout.unwrap_or(file.drain_timeout),
            access_log: self.access_log(file.access_log),
            log_level: self.level().unwrap_or(file.log_level),
            sticky_key: file.sticky_key,
            protection: file.protection,
        }
    }

    /// The mesh to join.
    pub(super) fn mesh(&self) -> Option<MeshConfig> {
        let join = self.join.clone()?.into();
        Some(MeshConfig { join, identity: self.join_as.clone() })
    }

    fn access_log(&self, file: Option<AccessLog>) -> Option<AccessLog> {
        let flag = self.access_log.as_ref().map(|path| match path.as_os_str().as_encoded_bytes() {
            b"-" => AccessLogPath::Stdout,
            _ => AccessLogPath::File(path.clone()),
        });
        let mut log = match (flag, file) {
            (Some(path), file) => AccessLog { path, ..file.unwrap_or_default() },
            (None, Some(file)) => file,
            (None, None) if self.access_log_format.is_some() => super::usage_error("--access-log-format needs --access-log PATH"),
            (None, None) => return None,
        };
        log.format = self.access_log_format.unwrap_or(log.format);
        Some(log)
    }

    fn level(&self) -> Option<LogLevel> {
        match self.verbose {
            0 => self.log_level,
            1 => Some(LogLevel::Debug),
            _ => Some(LogLevel::Trace),
        }
    }
}

/// A builder with these settings.
pub(super) fn apply(server: &ServerConfig, mut builder: ServerBuilder) -> Result<ServerBuilder, Failure> {
    builder = builder.drain_timeout(server.drain_timeout).protection(server.protection);
    if let Some(workers) = server.workers {
        builder = builder.workers(workers);
    }
    if let Some(data_dir) = &server.data_dir {
        builder = builder.data_dir(data_dir);
    }
    if let Admin::Address(address) = server.admin {
        builder = builder.admin(address).admin_hosts(server.admin_hosts.clone());
    }
    if !server.name_servers.is_empty() {
        let servers = server.name_servers.iter().map(|server| server.address()).collect();
        builder = builder.name_servers(NameServers::At(servers));
    }
    if let Some(key) = sticky_key(server)? {
        builder = builder.sticky_keys(vec![key]);
    }
    if let Some(log) = &server.access_log {
        builder = builder.access_log(sink(&log.path), format(log.format));
    }
    Ok(builder)
}

fn sink(path: &AccessLogPath) -> access::Sink {
    match path {
        AccessLogPath::Stdout => access::Sink::Stdout,
        AccessLogPath::File(path) => access::Sink::File(path.clone()),
    }
}

fn format(format: AccessLogFormat) -> access::Format {
    match format {
        AccessLogFormat::Json => access::Format::Json,
        AccessLogFormat::Common => access::Format::Common,
    }
}

/// The first directory that systemd made for us (`StateDirectory=`).
fn state_directory() -> Option<PathBuf> {
    let directories = std::env::var_os("STATE_DIRECTORY")?;
    std::env::split_paths(&directories).next().filter(|path| !path.as_os_str().is_empty())
}

/// Reads what follows the trust domain in a SPIFFE id.
pub(super) fn parse_identity(text: &str) -> Result<String, String> {
    check_identity(text).map(|()| text.to_owned())
}

fn parse_workers(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(workers @ 1..=ServerConfig::WORKERS_MAX) => Ok(workers),
        _ => Err(format!("not a number from 1 to {}", ServerConfig::WORKERS_MAX)),
    }
}

/// Reads one of the words that the configuration file takes as well.
fn parse_word<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::String(text.to_string())).map_err(|error| error.to_string())
}

fn parse_format(text: &str) -> Result<AccessLogFormat, String> {
    parse_word(text)
}

fn parse_level(text: &str) -> Result<LogLevel, String> {
    parse_word(text)
}
