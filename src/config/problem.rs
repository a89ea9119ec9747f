//! What is wrong with an object of the configuration: where, what, how to mend it, and with what effect meanwhile.
//!
//! A problem is data. It is drawn by [`Problem::render`] for people, and serialised for machines.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Element, Level, Renderer, normalize_untrusted_str};
use serde::{Deserialize, Serialize};

use super::snapshot::{Origin, Place};
use crate::names::Name;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The object it is about, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectId>,
    /// Where the object was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// The offending text.
    #[serde(skip)]
    pub snippet: Option<Snippet>,
    /// How to mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// What it means for traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
    /// Whether all that is wrong is that another object is missing, which may come from another provider.
    #[serde(skip)]
    pub is_dangling: bool,
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object is not, or no longer, in force as it is written.
    Error,
    /// The object is in force, but likely not as its author thinks.
    Warning,
}

/// A kind of object with the name of one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectId {
    /// The kind.
    pub kind: Kind,
    /// The name; of an endpoint `upstream/id`.
    pub name: String,
}

impl ObjectId {
    /// The object of this kind and name.
    #[must_use]
    pub fn new(kind: Kind, name: &Name) -> Self {
        Self { kind, name: name.to_string() }
    }
}

/// The kinds of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// [`Listener`](super::Listener).
    Listener,
    /// [`Route`](super::Route).
    Route,
    /// [`TcpRoute`](super::TcpRoute).
    TcpRoute,
    /// [`UdpRoute`](super::UdpRoute).
    UdpRoute,
    /// [`Upstream`](super::Upstream).
    Upstream,
    /// [`Endpoint`](super::Endpoint).
    Endpoint,
    /// [`Middleware`](crate::middleware::Middleware).
    Middleware,
    /// [`Certificate`](super::Certificate).
    Certificate,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Listener => "listener",
            Self::Route => "route",
            Self::TcpRoute => "TCP route",
            Self::UdpRoute => "UDP route",
            Self::Upstream => "upstream",
            Self::Endpoint => "endpoint",
            Self::Middleware => "middleware",
            Self::Certificate => "certificate",
        })
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.kind, self.name)
    }
}

/// The offending text inside its source.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Snippet {
    /// The whole file, or the whole value of a key, with its secrets masked.
    pub source: Arc<str>,
    /// The offending bytes of it.
    pub span: Range<usize>,
    /// What is said right under them. Empty: nothing.
    pub label: String,
}

/// The most problems that are reported of one source.
pub const PROBLEMS_MAX: usize = 1_000;

/// The first [`PROBLEMS_MAX`] of `problems`, and one more that counts the rest.
#[must_use]
pub fn bounded(problems: impl IntoIterator<Item = Problem>) -> Vec<Problem> {
    let mut problems = problems.into_iter();
    let mut reported: Vec<Problem> = problems.by_ref().take(PROBLEMS_MAX).collect();
    let more = problems.count();
    if more > 0 {
        reported.push(Problem::error(format!("and {more} more")));
    }
    reported
}

impl Problem {
    /// An error with nothing but its message.
    #[must_use]
    pub fn error(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            object: None,
            origin: None,
            message: message.into(),
            snippet: None,
            help: None,
            effect: None,
            is_dangling: false,
        }
    }

    /// A warning with nothing but its message.
    #[must_use]
    pub fn warning(message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(message) }
    }

    /// The same, about this object.
    #[must_use]
    pub fn about(self, object: ObjectId) -> Self {
        Self { object: Some(object), ..self }
    }

    /// The same, read at this place.
    #[must_use]
    pub fn at(self, origin: Origin) -> Self {
        Self { origin: Some(origin), ..self }
    }

    /// The same, with the way to mend it.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// The same, with what it means for traffic.
    #[must_use]
    pub fn effect(self, effect: impl Into<String>) -> Self {
        Self { effect: Some(effect.into()), ..self }
    }

    /// The same, about nothing but an object that is missing.
    #[must_use]
    pub fn dangling(self) -> Self {
        Self { is_dangling: true, ..self }
    }
}

impl Problem {
    /// Draws the problem for people, as rustc does: what and where, the offending text with a caret, the way to mend it, the effect.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = match &self.object {
            Some(object) => format!("{object}: {}", self.message),
            None => self.message.clone(),
        };
        let help = self.help.iter().map(|help| Level::HELP.message(normalize_untrusted_str(help)).into());
        let effect = self.effect.iter().map(|effect| Level::NOTE.message(normalize_untrusted_str(effect)).into());
        let report = [level.primary_title(title).elements(self.place().into_iter().chain(help).chain(effect))];
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&report)
    }

    /// The offending text with its place; the place alone if there is no text.
    fn place(&self) -> Option<Element<'_>> {
        let path = self.origin.as_ref().map(path);
        let Some(snippet) = &self.snippet else {
            return path.map(|path| self.place_without_text(path).into());
        };
        let (lines, first_line, span) = snippet.window();
        let annotation = AnnotationKind::Primary.span(span).label((!snippet.label.is_empty()).then_some(snippet.label.as_str()));
        Some(annotate_snippets::Snippet::source(lines).line_start(first_line).path(path).annotation(annotation).into())
    }

    fn place_without_text<'a>(&self, path: Cow<'a, str>) -> annotate_snippets::Origin<'a> {
        let place = annotate_snippets::Origin::path(path);
        match self.origin.as_ref().map(|origin| &origin.place) {
            Some(Place::File { line, column, .. }) => place.line(*line as usize).char_column(*column as usize),
            _ => place,
        }
    }
}

/// A place without line and column, which are drawn beside it.
fn path(origin: &Origin) -> Cow<'_, str> {
    let path = match &origin.place {
        Place::File { file, .. } => file.to_string_lossy(),
        Place::Key { .. } | Place::Label { .. } | Place::Lookup { .. } | Place::Program {} => Cow::Owned(origin.to_string()),
    };
    Cow::Owned(normalize_untrusted_str(&path))
}

impl Snippet {
    /// The lines that hold the offending bytes, the number of the first one, and the bytes' place in them.
    ///
    /// Drawing looks at all the text that it is given: what it is given must not grow with the file.
    fn window(&self) -> (&str, usize, Range<usize>) {
        let source = &*self.source;
        let end_max = source.len();
        let start = floor_char(source, self.span.start.min(end_max));
        let end = floor_char(source, self.span.end.clamp(start, end_max));
        let before = source.get(..start).unwrap_or_default();
        let first = before.rfind('\n').map_or(0, |newline| newline + 1);
        let last = source.get(start..end).into_iter().flat_map(|text| text.match_indices('\n')).nth(SNIPPET_LINES_MAX - 1);
        let end = last.map_or(end, |(newline, _)| start + newline);
        let line_end = source.get(end..).and_then(|rest| rest.find('\n')).map_or(end_max, |newline| end + newline);
        let lines = source.get(first..line_end).unwrap_or_default();
        (lines, 1 + before.matches('\n').count(), start - first..end - first)
    }
}

/// The most lines of offending text that are drawn.
const SNIPPET_LINES_MAX: usize = 6;

fn floor_char(text: &str, mut index: usize) -> usize {
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}

/// One line: object, message, place. For logs; [`Problem::render`] draws the whole.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(origin) = &self.origin {
            write!(f, " ({origin})")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn in_file(line: u32, column: u32) -> Origin {
        let place = Place::File { file: Arc::new(PathBuf::from("nuncio.toml")), line, column };
        Origin { provider: Name::literal("file"), place }
    }

    fn route(name: &'static str) -> ObjectId {
        ObjectId::new(Kind::Route, &Name::literal(name))
    }

    #[test]
    fn a_problem_in_a_file_shows_its_line() {
        let source = "[routes.api]\nuptream = \"api\"\n";
        let snippet = Snippet { source: source.into(), span: 13..20, label: "no such key".into() };
        let problem = Problem { snippet: Some(snippet), ..Problem::error("unknown key `uptream`") };
        let problem = problem.about(route("api")).at(in_file(2, 1)).help("did you mean `upstream`?").effect("keeps generation 4");
        let expected = "\
error: route `api`: unknown key `uptream`
 --> nuncio.toml:2:1
  |
2 | uptream = \"api\"
  | ^^^^^^^ no such key
  |
  = help: did you mean `upstream`?
  = note: keeps generation 4";
        assert_eq!(problem.render(false), expected);
        assert!(problem.render(true).contains("\u{1b}["));
    }

    #[test]
    fn a_problem_without_text_shows_its_place() {
        let key = Place::Key { key: "/nuncio/routes/api".into(), revision: 42 };
        let origin = Origin { provider: Name::literal("etcd"), place: key };
        let problem = Problem::warning("is never matched").about(route("api")).at(origin);
        assert_eq!(problem.render(false), "warning: route `api`: is never matched\n--> etcd: key /nuncio/routes/api, revision 42");
        let problem = Problem::error("is twice").at(in_file(3, 4));
        assert_eq!(problem.render(false), "error: is twice\n--> nuncio.toml:3:4");
    }

    #[test]
    fn any_span_can_be_drawn() {
        let source: Arc<str> = "äb\n\ncd".into();
        for start in 0..12 {
            for end in 0..12 {
                let snippet = Snippet { source: source.clone(), span: start..end, label: "x".into() };
                let problem = Problem { snippet: Some(snippet), ..Problem::error("e") };
                assert!(problem.at(in_file(1, 1)).render(false).starts_with("error: e"));
            }
        }
    }

    #[test]
    fn drawing_is_bounded() {
        let source: Arc<str> = "line\n".repeat(100).into();
        let snippet = Snippet { span: 5..source.len(), source, label: String::new() };
        let problem = Problem { snippet: Some(snippet), ..Problem::error("e") };
        assert!(problem.render(false).lines().count() < 20);
    }

    #[test]
    fn many_problems_are_counted() {
        let problems = bounded((0..1_200).map(|number| Problem::error(number.to_string())));
        assert_eq!((problems.len(), problems.last().map(|problem| problem.message.as_str())), (1_001, Some("and 200 more")));
        assert_eq!(bounded([Problem::error("one")]).len(), 1);
    }

    #[test]
    fn machines_get_every_part() {
        let problem = Problem::error("e").about(route("api")).at(in_file(2, 3)).help("h").effect("f");
        let expected = serde_json::json!({
            "severity": "error",
            "object": { "kind": "route", "name": "api" },
            "origin": { "provider": "file", "file": "nuncio.toml", "line": 2, "column": 3 },
            "message": "e",
            "help": "h",
            "effect": "f",
        });
        assert_eq!(serde_json::to_value(problem).unwrap(), expected);
    }
}
