//! The log: one line per event on standard error, in colour on a terminal.

use nuncio::config::server::LogLevel;
use tracing_subscriber::EnvFilter;

/// Installs the logger. What `RUST_LOG` says counts more than `level`.
pub(super) fn start(level: LogLevel) {
    let from_env = std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
    let filter = from_env.and_then(|filter| filter.parse::<EnvFilter>().ok()).unwrap_or_else(|| EnvFilter::new(directives(level)));
    start_filtered(filter);
}

/// Installs the logger with a filter of its own.
pub(super) fn start_filtered(filter: EnvFilter) {
    let logger = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(super::output::is_stderr_colored())
        .with_target(false)
        .compact();
    // Fails only when there is a logger already.
    let _ = logger.try_init();
}

/// Ours at this level; of the libraries below us only what is wrong, unless everything is asked for.
fn directives(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "warn,nuncio=info",
        LogLevel::Debug => "info,nuncio=debug",
        LogLevel::Trace => "trace",
    }
}
