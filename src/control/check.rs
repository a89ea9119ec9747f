//! What would become of a configuration: it is compiled as a running server would compile it, and thrown away.
//!
//! [`config::check`](crate::config::check) looks at the text alone. This looks at what the objects make together, and into the files
//! that they name.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::context::context;
use super::overlap::overlaps;
use super::pem::PemFiles;
use crate::config::decode::FileConfig;
use crate::config::problem::Severity;
use crate::config::server::StickyKey as StickyKeyConfig;
use crate::config::snapshot::Place;
use crate::config::{Problem, ServerConfig};
use crate::metrics::Meter;
use crate::routing::sticky::StickyKey;
use crate::routing::{RoutingTable, compile};

/// What would become of a configuration.
#[derive(Debug, Clone)]
pub struct Checked {
    /// All that is wrong, in the order of the text.
    pub problems: Vec<Problem>,
    /// What would be in force.
    pub summary: Summary,
}

/// How many objects a table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Listeners.
    pub listeners: usize,
    /// HTTP routes.
    pub routes: usize,
    /// TCP routes.
    pub tcp_routes: usize,
    /// UDP routes.
    #[serde(default)]
    pub udp_routes: usize,
    /// Upstreams.
    pub upstreams: usize,
}

impl Checked {
    /// Whether anything would not be in force as it is written.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(|problem| problem.severity == Severity::Error)
    }
}

impl Summary {
    /// Counts the objects of a table.
    #[must_use]
    pub fn of(table: &RoutingTable) -> Self {
        Self {
            listeners: table.listeners.len(),
            routes: table.routes.len(),
            tcp_routes: table.tcp_routes.len(),
            udp_routes: table.udp_routes.len(),
            upstreams: table.upstreams.len(),
        }
    }
}

/// Checks `config`. With `is_alone`, an object that is missing is an error; otherwise another provider may have it, and it is a warning.
///
/// # Errors
/// When the system has no random numbers.
pub fn check(config: &FileConfig, is_alone: bool) -> io::Result<Checked> {
    let meter = Meter::new(Arc::new(metrics::NoopRecorder));
    let key = StickyKey::generate().map_err(io::Error::other)?;
    let context = context(&meter, vec![key])?;
    let mut snapshot = Cow::Borrowed(&config.snapshot);
    PemFiles::default().resolve(&mut snapshot);
    let table = compile(&snapshot, &RoutingTable::default(), &context);
    let mut problems: Vec<Problem> = config.problems.iter().chain(&table.problems).cloned().collect();
    problems.extend(sticky_key(&config.server).err().map(|message| about_server(config, message)));
    problems.extend(overlaps(&config.snapshot.listeners));
    if !is_alone {
        problems.iter_mut().filter(|problem| problem.is_dangling).for_each(excuse);
    }
    problems.sort_by_key(place);
    Ok(Checked { problems, summary: Summary::of(&table) })
}

/// The key of sticky cookies that the settings name. None: they name none.
///
/// # Errors
/// A sentence that says what is wrong with its file.
pub fn sticky_key(server: &ServerConfig) -> Result<Option<StickyKey>, String> {
    match &server.sticky_key {
        None => Ok(None),
        Some(StickyKeyConfig::Bytes(bytes)) => Ok(Some(StickyKey::from_bytes(*bytes))),
        Some(StickyKeyConfig::Path(path)) => {
            let text = std::fs::read_to_string(path).map_err(|error| format!("`sticky_key`: {}: {error}", path.display()))?;
            let key = StickyKeyConfig::parse_hex(&text).map(StickyKey::from_bytes);
            key.map(Some).ok_or_else(|| format!("`sticky_key`: {} does not hold 64 hex digits", path.display()))
        }
    }
}

fn about_server(config: &FileConfig, message: String) -> Problem {
    let problem = Problem::error(message).help("`openssl rand -hex 32` makes a key");
    match &config.server_origin {
        Some(origin) => problem.at(origin.clone()),
        None => problem,
    }
}

fn excuse(problem: &mut Problem) {
    problem.severity = Severity::Warning;
    problem.effect = Some("none, if another provider has it".into());
}

/// By file, then line and column; what has no place comes last.
fn place(problem: &Problem) -> (bool, Option<(std::path::PathBuf, u32, u32)>) {
    let place = match problem.origin.as_ref().map(|origin| &origin.place) {
        Some(Place::File { file, line, column }) => Some((file.to_path_buf(), *line, *column)),
        _ => None,
    };
    (place.is_none(), place)
}
