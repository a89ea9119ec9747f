//! `nuncio check`: what is wrong with a file.

use std::path::{Path, PathBuf};
use std::time::Instant;

use nuncio::Name;
use nuncio::config::Problem;
use nuncio::config::decode::FileConfig;
use nuncio::config::files::Files;
use nuncio::config::problem::Severity;
use nuncio::control::check::{Checked, Summary, check};
use serde::Serialize;

use super::Failure;
use super::output::{count, is_colored, say, say_json};

/// Check a configuration file, or a directory of them, without running it
#[derive(clap::Args)]
#[command(after_help = "\
Everything that `nuncio run` would complain about is reported at once: the text, references between objects, \
and the files of certificates. Exit code 1 when there is an error; warnings alone are no failure.

Examples:
  nuncio check nuncio.toml
  nuncio check /etc/nuncio
  nuncio check --json nuncio.toml | jq '.problems[].message'")]
pub(super) struct Args {
    /// The file, or a directory of which every *.toml is read
    file: PathBuf,
    /// Prints problems and counts as JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    is_valid: bool,
    summary: Summary,
    problems: &'a [Problem],
}

/// Checks, and says what was found.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let config = read(&args.file, &Name::literal("file"));
    let checked = check(&config, config.providers.is_empty())?;
    if args.json {
        say_json(&Report { is_valid: !checked.has_errors(), summary: checked.summary, problems: &checked.problems })?;
    } else {
        say(&render(&checked.problems, is_colored()))?;
        say(&format!("{}: {}\n", args.file.display(), sentence(&checked)))?;
    }
    if checked.has_errors() { Err(Failure::Told) } else { Ok(()) }
}

/// Reads a file or directory once.
pub(super) fn read(path: &Path, provider: &Name) -> FileConfig {
    let seen_at = Instant::now();
    let mut files = Files::new(path.to_path_buf(), provider.clone());
    files.read(seen_at);
    files.config(seen_at)
}

/// All problems, as people read them.
pub(super) fn render(problems: &[Problem], color: bool) -> String {
    problems.iter().map(|problem| format!("{}\n\n", problem.render(color))).collect()
}

/// `1 listener, 3 routes, 2 upstreams, no problems`.
pub(super) fn sentence(checked: &Checked) -> String {
    let of = |severity| checked.problems.iter().filter(|problem| problem.severity == severity).count();
    let problems = match (of(Severity::Error), of(Severity::Warning)) {
        (0, 0) => "no problems".to_string(),
        (errors, 0) => count(errors, "error"),
        (0, warnings) => count(warnings, "warning"),
        (errors, warnings) => format!("{}, {}", count(errors, "error"), count(warnings, "warning")),
    };
    format!("{}, {problems}", objects(&checked.summary))
}

/// `1 listener, 3 routes, 2 upstreams`.
pub(super) fn objects(summary: &Summary) -> String {
    let tcp = (summary.tcp_routes > 0).then(|| count(summary.tcp_routes, "TCP route"));
    let udp = (summary.udp_routes > 0).then(|| count(summary.udp_routes, "UDP route"));
    let (listeners, routes) = (count(summary.listeners, "listener"), count(summary.routes, "route"));
    let all = [Some(listeners), Some(routes), tcp, udp, Some(count(summary.upstreams, "upstream"))];
    all.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
