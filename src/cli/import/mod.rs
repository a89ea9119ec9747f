//! `nuncio import`: a configuration of another proxy → ours, and what could not be carried over.
//!
//! One parser per file, each a pure function of texts that gives a [`Draft`](draft::Draft). What the result means is looked at with the
//! same eyes as `nuncio check`.
//!
//! | file | concept |
//! |---|---|
//! | `draft` | the result in the making, and its findings |
//! | `haproxy`, `haproxy_text`, `haproxy_rule`, `haproxy_server` | sections of HAProxy; their text, ACLs and conditions, servers |
//! | `nginx`, `nginx_text`, `nginx_parts`, `nginx_stream` | servers of nginx; text, what blocks have in common, TCP |
//! | `synapse` | services of synapse, which are sections of HAProxy |
//! | `traefik`, `traefik_rule` | entry points, routers, services and middlewares of Traefik; its rules |
//! | `caddy`, `caddy_text` | sites of a Caddyfile; its text as blocks |
//! | `document` | YAML, JSON and TOML as one tree with lines |

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use nuncio::Name;
use nuncio::config::decode::{TomlFile, decode_toml};
use nuncio::config::problem::Severity;
use nuncio::control::check::check;

use self::draft::{At, Draft};
use super::Failure;
use super::output::{complain, read_bounded, say};

mod caddy;
mod caddy_text;
mod document;
mod draft;
mod haproxy;
mod haproxy_rule;
mod haproxy_server;
mod haproxy_text;
mod nginx;
mod nginx_parts;
mod nginx_stream;
mod nginx_text;
mod synapse;
mod traefik;
mod traefik_rule;

/// The largest file that is imported, in bytes.
const FILE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Turn the configuration of another proxy into ours
#[derive(clap::Args)]
#[command(after_help = "\
The result is TOML, with comments that say where each object came from. What cannot be carried over is listed on \
standard error, with file, line, reason and what to do. See docs/import.md for what is read.

Exit code 0 when all was carried over, 3 when something was not, 1 when there is no result.

Examples:
  nuncio import haproxy /etc/haproxy/haproxy.cfg --output nuncio.toml
  nuncio import haproxy haproxy.cfg 2> todo.txt | nuncio check /dev/stdin")]
pub(super) struct Args {
    /// Whose configuration it is
    kind: Kind,
    /// Its files, in their order
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Where to write the result. Default: standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// Caddy, as a Caddyfile
    Caddy,
    /// HAProxy
    Haproxy,
    /// nginx
    Nginx,
    /// Synapse, in JSON or YAML
    Synapse,
    /// Traefik, static and dynamic, in YAML or TOML
    Traefik,
}

/// A file that is imported.
struct Input {
    name: Rc<str>,
    text: String,
}

impl Input {
    /// Its lines, each with its place.
    fn lines(&self) -> impl Iterator<Item = (At, &str)> {
        (1..).zip(self.text.lines()).map(|(line, text)| (self.at(line), text))
    }

    fn at(&self, line: usize) -> At {
        At { file: self.name.clone(), line }
    }
}

/// Imports, and says what is missing.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let inputs: Vec<Input> = args.files.iter().map(|path| read(path)).collect::<Result<_, _>>()?;
    let draft = import(args.kind, &inputs)?;
    if draft.is_empty() {
        return Err(Failure::Message("there is nothing in it to import".into()));
    }
    let names: Vec<&str> = inputs.iter().map(|input| &*input.name).collect();
    let text = draft.render(&names.join(", "));
    match &args.output {
        Some(path) => std::fs::write(path, &text).map_err(|error| format!("{}: {error}", path.display()))?,
        None => say(&text)?,
    }
    for finding in draft.findings() {
        complain(&format!("{finding}\n"));
    }
    let problems = problems(&text);
    for problem in &problems {
        complain(&format!("the result: {problem}\n"));
    }
    if draft.is_complete() && problems.is_empty() { Ok(()) } else { Err(Failure::Incomplete) }
}

fn read(path: &Path) -> Result<Input, String> {
    let bytes = read_bounded(path, FILE_BYTES_MAX)?;
    let text = String::from_utf8(bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Input { name: path.to_string_lossy().into(), text })
}

fn import(kind: Kind, inputs: &[Input]) -> Result<Draft, String> {
    match kind {
        Kind::Caddy => Ok(caddy::import(inputs)),
        Kind::Haproxy => Ok(haproxy::import(inputs)),
        Kind::Nginx => Ok(nginx::import(inputs)),
        Kind::Synapse => synapse::import(inputs),
        Kind::Traefik => traefik::import(inputs),
    }
}

/// What `nuncio check` would complain of, in one line each.
fn problems(text: &str) -> Vec<String> {
    let provider = Name::literal("import");
    let file = TomlFile { text, path: Arc::new("result".into()), provider: &provider };
    let config = match decode_toml(&file, Instant::now()) {
        Ok(config) => config,
        Err(problems) => return problems.iter().map(|problem| problem.message.clone()).collect(),
    };
    let problems = match check(&config, config.providers.is_empty()) {
        Ok(checked) => checked.problems,
        Err(error) => return vec![error.to_string()],
    };
    let errors = problems.into_iter().filter(|problem| problem.severity == Severity::Error);
    errors
        .map(|problem| problem.object.map_or_else(|| problem.message.clone(), |object| format!("{object}: {}", problem.message)))
        .collect()
}

#[cfg(test)]
mod testing {
    use super::*;

    /// What an import of this text is, as it is written, and what it lacks, line by line.
    pub(super) fn import_text(kind: Kind, text: &str) -> (String, Vec<String>) {
        import_texts(kind, &[("test", text)])
    }

    /// The same of several files. The result must be without problems.
    pub(super) fn import_texts(kind: Kind, texts: &[(&str, &str)]) -> (String, Vec<String>) {
        let inputs: Vec<Input> = texts.iter().map(|(name, text)| Input { name: (*name).into(), text: (*text).to_owned() }).collect();
        let draft = import(kind, &inputs).unwrap();
        let text = draft.render("test");
        let problems = problems(&text);
        assert!(problems.is_empty(), "{problems:?}\n{text}");
        (text, draft.findings().iter().map(ToString::to_string).collect())
    }

    /// The lines of a table of the result, sorted.
    #[track_caller]
    pub(super) fn table<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
        let header = format!("\n[{name}]\n");
        let at = text.find(&header).unwrap_or_else(|| panic!("there is no {name} in\n{text}"));
        text[at + header.len()..].lines().take_while(|line| !line.is_empty()).collect()
    }

    /// A certificate with its key in one file, which the result may name.
    pub(super) fn certificate() -> tempfile::NamedTempFile {
        let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem())).unwrap();
        file
    }
}
