//! A server until a signal ends it, and what it says meanwhile.

use std::fs::File;

use nuncio::Server;
use nuncio::config::ServerConfig;
use nuncio::config::server::Admin;
use nuncio::control::check::Summary;
use nuncio::server::ServerBuilder;

use super::check::objects;
use super::signals::Signals;
use super::{Failure, logging, output, systemd, whereabouts};

/// Runs a server until a signal ends it.
pub(super) async fn until_signal(builder: ServerBuilder, settings: &ServerConfig, log: logging::Log) -> Result<(), Failure> {
    // Before the server starts, so that a signal never meets the system's default.
    let mut signals = Signals::catch()?;
    let server = builder.passed_sockets(systemd::passed_sockets()?).start().map_err(|error| Failure::Message(explain(&error, settings)))?;
    let _whereabouts = announce_admin(&server);
    let signal = tokio::select! {
        signal = signals.end() => signal,
        () = announce_ready(&server) => signals.end().await,
    };
    systemd::stopping();
    tracing::info!("{signal}: finishing what is in flight, for {:?} at most; a second signal ends at once", settings.drain_timeout);
    tokio::select! {
        is_clean = server.shutdown() => {
            if is_clean {
                tracing::info!("ended: nothing was cut");
            }
            Ok(())
        }
        signal = signals.end() => {
            tracing::warn!("{signal} again: ending at once");
            drop(log);
            #[expect(clippy::disallowed_methods, reason = "the second signal asks for an end without any further step")]
            std::process::exit(1)
        }
    }
}

/// A start that fails, with the way to mend it.
fn explain(error: &nuncio::server::StartError, settings: &ServerConfig) -> String {
    match (error, settings.admin) {
        (nuncio::server::StartError::Admin { .. }, Admin::Address(_)) => {
            format!("{error}\n\n  Another instance may run already. Choose another address with --admin 127.0.0.1:0, or --admin off.")
        }
        _ => error.to_string(),
    }
}

/// Says where the admin API is, to people, and to commands for as long as the result lives.
fn announce_admin(server: &Server) -> Option<File> {
    let providers: Vec<&str> = server.status().feeds().iter().map(|feed| feed.name().as_str()).collect();
    tracing::info!("nuncio {}, providers: {}", env!("CARGO_PKG_VERSION"), providers.join(", "));
    let admin = server.admin_addr()?;
    tracing::info!("admin API: http://{admin}");
    if !admin.ip().is_loopback() {
        tracing::warn!("the admin API has no authentication, and {admin} may be reached from other machines");
    }
    let said = whereabouts::say(whereabouts::ADMIN, &admin.to_string());
    said.inspect_err(|error| tracing::warn!("`nuncio health` and others have to be told where the admin API is: {error}")).ok()
}

/// Waits for the first table, and says what it holds. The listeners say themselves where they listen.
async fn announce_ready(server: &Server) {
    server.ready().await;
    systemd::ready();
    let summary = Summary::of(&server.table());
    match server.status().problems().len() {
        0 => tracing::info!("ready: {}", objects(&summary)),
        problems => tracing::warn!("ready, with {}: {}", output::count(problems, "problem"), objects(&summary)),
    }
    if summary.listeners == 0 {
        tracing::warn!("there is no listener: nothing is accepted. Add [listeners.NAME], or start with --listen :8080");
    }
}
