//! TOML and JSON text → objects and problems.
//!
//! Each object stands for itself: one that cannot be read becomes an [`Entry`] with a problem in its place, and all others go
//! through. References between objects are looked at when a table is compiled, not here.
//!
//! The steps: text → `node`, in which every value knows its bytes → the object, by serde.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::deserialize::DecodeError;
use super::node::{Key, Node, Value};
use super::problem::{self, Kind, ObjectId};
use super::providers::ProviderConfig;
use super::server::ServerConfig;
use super::snapshot::{Place, Section, UpstreamEntry};
use super::source::Source;
use super::{Endpoint, Entry, Origin, Problem, Snapshot, token};
use crate::names::Name;
use crate::rule::{ConnectionRule, Rule};

/// The largest file that is read, in bytes.
pub const FILE_BYTES_MAX: usize = 64 * 1_024 * 1_024;

/// The largest JSON value of a store that is read, in bytes: what etcd accepts at most.
pub const JSON_BYTES_MAX: usize = 1_536 * 1_024;

/// All that a file says: the settings of the process, and what to route.
#[derive(Debug, Clone)]
pub struct FileConfig {
    /// `[server]`. At its defaults if it is not there, or if it is one of the `problems`.
    pub server: ServerConfig,
    /// Where `[server]` is, if it is there.
    pub server_origin: Option<Origin>,
    /// `[providers.NAME]`, without those that are among the `problems`. In the order in which they are written: that in which they count.
    pub providers: Vec<(Name, ProviderConfig)>,
    /// The objects, and the keys and tables that belong to none.
    pub snapshot: Snapshot,
    /// What is wrong with `server` and `providers`. They are read once, at the start, which should not go on with any of these.
    pub problems: Vec<Problem>,
}

impl FileConfig {
    /// What a file without content says.
    #[must_use]
    pub fn empty(seen_at: Instant) -> Self {
        Self {
            server: ServerConfig::default(),
            server_origin: None,
            providers: Vec::new(),
            snapshot: Snapshot::empty(seen_at),
            problems: Vec::new(),
        }
    }

    /// All that is wrong, in settings and objects alike, in the order of the text, bounded by [`problem::PROBLEMS_MAX`].
    #[must_use]
    pub fn all_problems(&self) -> Vec<Problem> {
        let mut problems: Vec<&Problem> = self.problems.iter().chain(self.snapshot.all_problems()).collect();
        problems.sort_by_key(|problem| place_in_file(problem));
        problem::bounded(problems.into_iter().cloned())
    }
}

/// A text in TOML, and what to call it.
#[derive(Debug, Clone)]
pub struct TomlFile<'a> {
    /// What the file holds.
    pub text: &'a str,
    /// Its path.
    pub path: Arc<PathBuf>,
    /// The provider that its objects belong to.
    pub provider: &'a Name,
}

/// Reads a whole configuration file.
///
/// # Errors
/// What is wrong with the file as a whole: it is too large, or no TOML. Then nothing can be said of any object in it.
pub fn decode_toml(file: &TomlFile<'_>, seen_at: Instant) -> Result<FileConfig, Vec<Problem>> {
    let decoder = FileDecoder { file, source: Source::new(file.text) };
    if file.text.len() > FILE_BYTES_MAX {
        let message = format!("the file has {} bytes, more than {FILE_BYTES_MAX}", file.text.len());
        return Err(vec![Problem::error(message).at(decoder.origin(0))]);
    }
    match Node::from_toml(file.text) {
        Ok(document) => Ok(decoder.document(&document, seen_at)),
        Err(mut errors) => {
            errors.sort_by_key(|error| error.span.as_ref().map(|span| span.start));
            Err(problem::bounded(errors.into_iter().map(|error| decoder.problem(error))))
        }
    }
}

/// The same of a document in JSON: an object with the tables of a file.
///
/// # Errors
/// As [`decode_toml`].
pub fn decode_json_document(file: &TomlFile<'_>, seen_at: Instant) -> Result<FileConfig, Vec<Problem>> {
    let decoder = FileDecoder { file, source: Source::new(file.text) };
    let document = Node::from_json(file.text).map_err(|error| vec![decoder.problem(error)])?;
    if !matches!(document.value, Value::Table(_)) {
        let error = DecodeError::new(format!("expected an object, found {}", document.value.kind()));
        return Err(vec![decoder.problem(error.at(document.span))]);
    }
    Ok(decoder.document(&document, seen_at))
}

fn place_in_file(problem: &Problem) -> Option<(&PathBuf, u32, u32)> {
    match problem.origin.as_ref().map(|origin| &origin.place) {
        Some(Place::File { file, line, column }) => Some((file, *line, *column)),
        _ => None,
    }
}

/// Reads one object from the JSON value of a store. Unknown fields are errors.
///
/// # Errors
/// The problem that takes the object's place, with its origin.
pub fn decode_json<T: DeserializeOwned>(text: &str, object: ObjectId, origin: Origin) -> Result<T, Problem> {
    if text.len() > JSON_BYTES_MAX {
        let message = format!("the value has {} bytes, more than {JSON_BYTES_MAX}", text.len());
        return Err(Problem::error(message).about(object).at(origin));
    }
    let result = Node::from_json(text).and_then(|node| decode_node(&node, text, Some(object.kind)));
    result.map_err(|error| problem_in(&Source::new(text), error).about(object).at(origin))
}

/// Reads an endpoint from the value of a store: JSON, or a bare address such as `127.0.0.1:3000` or `app.internal:3000`.
///
/// # Errors
/// The problem that takes the endpoint's place, with its origin.
pub fn decode_endpoint(text: &str, object: ObjectId, origin: Origin) -> Result<Endpoint, Problem> {
    let text = text.trim();
    if text.starts_with(['{', '"']) || text.len() > JSON_BYTES_MAX {
        return decode_json(text, object, origin);
    }
    Endpoint::parse_address(text).map(Endpoint::new).map_err(|message| {
        let error = DecodeError::new(message).at(0..text.len());
        problem_in(&Source::new(text), error).about(object).at(origin)
    })
}

/// One object, of this `kind` if it has one. Its error knows the offending bytes of `text`.
fn decode_node<T: DeserializeOwned>(node: &Node, text: &str, kind: Option<Kind>) -> Result<T, DecodeError> {
    T::deserialize(node).map_err(|error| within_rule(node.place(error), node, text, kind))
}

/// An error of a route's rule, moved from the whole string to what is wrong inside it.
fn within_rule(error: DecodeError, object: &Node, text: &str, kind: Option<Kind>) -> DecodeError {
    let rule = object.get("match").filter(|rule| error.span.as_ref() == Some(&rule.span));
    let (Some(rule), Some(value)) = (rule, rule.and_then(Node::as_str)) else {
        return error;
    };
    let rule_error = match kind {
        Some(Kind::TcpRoute) => ConnectionRule::parse(value).err(),
        _ => Rule::parse(value).err(),
    };
    let (Some(rule_error), Some(written)) = (rule_error, text.get(rule.span.clone())) else {
        return error;
    };
    let inside = token::locate(written, rule_error.span);
    let span = rule.span.start + inside.start..rule.span.start + inside.end;
    DecodeError::new(rule_error.message).help(rule_error.help).at(span)
}

/// A problem without its object and origin.
fn problem_in(source: &Source<'_>, error: DecodeError) -> Problem {
    let snippet = error.span.map(|span| source.snippet(span, error.label));
    Problem { snippet, help: error.help, ..Problem::error(error.message) }
}

/// The tables at the top of a file.
const TABLES: [&str; 9] =
    ["server", "providers", "listeners", "routes", "tcp_routes", "udp_routes", "upstreams", "middlewares", "certificates"];

/// A file while it is decoded.
struct FileDecoder<'a> {
    file: &'a TomlFile<'a>,
    source: Source<'a>,
}

impl FileDecoder<'_> {
    fn document(&self, document: &Node, seen_at: Instant) -> FileConfig {
        let mut config = FileConfig::empty(seen_at);
        let Value::Table(tables) = &document.value else {
            return config;
        };
        for (key, table) in tables {
            self.table(key, table, &mut config);
        }
        config.problems = problem::bounded(config.problems);
        config.snapshot.problems = problem::bounded(config.snapshot.problems);
        config
    }

    fn table(&self, key: &Key, table: &Node, config: &mut FileConfig) {
        let snapshot = &mut config.snapshot;
        match key.text.as_str() {
            "server" => self.server(key, table, config),
            "providers" => config.providers = self.providers(table, &mut config.problems),
            "listeners" => snapshot.listeners = self.section(Kind::Listener, table, &mut snapshot.problems),
            "routes" => snapshot.routes = self.section(Kind::Route, table, &mut snapshot.problems),
            "tcp_routes" => snapshot.tcp_routes = self.section(Kind::TcpRoute, table, &mut snapshot.problems),
            "udp_routes" => snapshot.udp_routes = self.section(Kind::UdpRoute, table, &mut snapshot.problems),
            "upstreams" => snapshot.upstreams = self.upstreams(table, &mut snapshot.problems),
            "middlewares" => snapshot.middlewares = self.section(Kind::Middleware, table, &mut snapshot.problems),
            "certificates" => snapshot.certificates = self.section(Kind::Certificate, table, &mut snapshot.problems),
            unknown => snapshot.problems.push(self.problem(DecodeError::unknown("table", unknown, &TABLES).at(key.span.clone()))),
        }
    }

    fn server(&self, key: &Key, table: &Node, config: &mut FileConfig) {
        config.server_origin = Some(self.origin(key.span.start));
        match decode_node(table, self.source.text(), None) {
            Ok(server) => config.server = server,
            Err(error) => config.problems.push(self.problem(error)),
        }
    }

    fn section<T: DeserializeOwned>(&self, kind: Kind, table: &Node, problems: &mut Vec<Problem>) -> Section<T> {
        let entry = |(name, key, node): (Name, &Key, &Node)| {
            let entry = self.entry(ObjectId::new(kind, &name), key, node);
            (name, Arc::new(entry))
        };
        self.named(table, problems).into_iter().map(entry).collect()
    }

    fn upstreams(&self, table: &Node, problems: &mut Vec<Problem>) -> BTreeMap<Name, Arc<UpstreamEntry>> {
        let entry = |(name, key, node): (Name, &Key, &Node)| {
            let settings = self.entry(ObjectId::new(Kind::Upstream, &name), key, node);
            (name, Arc::new(UpstreamEntry { settings: Some(settings), endpoints: BTreeMap::new() }))
        };
        self.named(table, problems).into_iter().map(entry).collect()
    }

    fn providers(&self, table: &Node, problems: &mut Vec<Problem>) -> Vec<(Name, ProviderConfig)> {
        let mut written = self.named(table, problems);
        written.sort_by_key(|(_, key, _)| key.span.start);
        let mut providers = Vec::new();
        for (name, _, node) in written {
            match provider(&name, node) {
                Ok(provider) => providers.push((name, provider)),
                Err(error) => problems.push(self.problem(error)),
            }
        }
        providers
    }

    fn entry<T: DeserializeOwned>(&self, object: ObjectId, key: &Key, node: &Node) -> Entry<T> {
        let value = decode_node(node, self.source.text(), Some(object.kind)).map_err(|error| self.problem(error).about(object));
        Entry { origin: self.origin(key.span.start), value }
    }

    /// The entries of a table of objects. What has no valid name is a problem beside the objects.
    fn named<'n>(&self, table: &'n Node, problems: &mut Vec<Problem>) -> Vec<(Name, &'n Key, &'n Node)> {
        let Value::Table(entries) = &table.value else {
            let error = DecodeError::new(format!("expected a table of named objects, found {}", table.value.kind()));
            problems.push(self.problem(error.at(table.span.clone())));
            return Vec::new();
        };
        let mut named = Vec::new();
        for (key, node) in entries {
            match Name::new(&key.text) {
                Ok(name) => named.push((name, key, node)),
                Err(error) => problems.push(self.problem(DecodeError::new(error.to_string()).at(key.span.clone()))),
            }
        }
        named
    }

    /// A problem at the offending bytes.
    fn problem(&self, error: DecodeError) -> Problem {
        let offset = error.span.as_ref().map_or(0, |span| span.start);
        problem_in(&self.source, error).at(self.origin(offset))
    }

    fn origin(&self, offset: usize) -> Origin {
        let (line, column) = self.source.position(offset);
        Origin { provider: self.file.provider.clone(), place: Place::File { file: self.file.path.clone(), line, column } }
    }
}

/// A provider's settings. Its kind is the key `type` if there is one, else the table's name.
fn provider(name: &Name, node: &Node) -> Result<ProviderConfig, DecodeError> {
    let Value::Table(entries) = &node.value else {
        return Err(DecodeError::new(format!("expected a table, found {}", node.value.kind())).at(node.span.clone()));
    };
    let (kind, kind_span) = match node.get("type") {
        Some(kind) => (<&str>::deserialize(kind)?, kind.span.clone()),
        None => (name.as_str(), node.span.clone()),
    };
    let settings = entries.iter().filter(|(key, _)| key.text != "type").cloned().collect();
    let settings = Node { span: node.span.clone(), value: Value::Table(settings) };
    match ProviderConfig::deserialize_kind(kind, &settings) {
        Some(result) => result.map_err(|error| node.place(error)),
        None => Err(DecodeError::unknown("provider", kind, &ProviderConfig::kinds()).at(kind_span)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Certificate, Upstream};

    fn file(text: &str) -> Result<FileConfig, Vec<Problem>> {
        let provider = Name::literal("file");
        let path = Arc::new(PathBuf::from("nuncio.toml"));
        decode_toml(&TomlFile { text, path, provider: &provider }, Instant::now())
    }

    /// The text that a problem points at.
    fn offending(problem: &Problem) -> &str {
        let snippet = problem.snippet.as_ref().unwrap();
        &snippet.source[snippet.span.clone()]
    }

    fn place(origin: &Origin) -> (u32, u32) {
        match origin.place {
            Place::File { line, column, .. } => (line, column),
            _ => (0, 0),
        }
    }

    /// The only problem of `text`: its message, the text it points at, and the line and column of that.
    fn check(text: &str, message: &str, offending_text: &str, position: (u32, u32)) -> Problem {
        let problems = file(text).map_or_else(|problems| problems, |config| config.all_problems());
        let [problem] = problems.as_slice() else { panic!("{problems:#?}") };
        let found = (problem.message.as_str(), offending(problem), place(problem.origin.as_ref().unwrap()));
        assert_eq!(found, (message, offending_text, position));
        problem.clone()
    }

    fn endpoint_id() -> ObjectId {
        ObjectId { kind: Kind::Endpoint, name: "api/1".into() }
    }

    fn key() -> Origin {
        Origin { provider: Name::literal("etcd"), place: Place::Key { key: "/nuncio/x".into(), revision: 7 } }
    }

    #[test]
    fn a_bad_object_leaves_all_others_in_place() {
        let text = "\
[upstreams.a]
endpoints = ['10.0.0.1:80']
[upstreams.b]
endpoint = []
[routes.a]
match = 'Path(\"/\")'
upstream = 'a'
";
        let config = file(text).unwrap();
        assert!(config.problems.is_empty() && config.snapshot.problems.is_empty());
        let settings = |name: &str| config.snapshot.upstreams[name].settings.clone().unwrap();
        assert_eq!(settings("a").value.unwrap().endpoints.len(), 1);
        assert_eq!(place(&settings("a").origin), (1, 12));
        let problem = settings("b").value.unwrap_err();
        assert_eq!(problem.object, Some(ObjectId::new(Kind::Upstream, &Name::literal("b"))));
        assert_eq!((offending(&problem), place(problem.origin.as_ref().unwrap())), ("endpoint", (4, 1)));
        assert_eq!(problem.help.as_deref(), Some("did you mean `endpoints`?"));
        assert!(config.snapshot.routes["a"].value.is_ok());
    }

    #[test]
    fn problems_point_at_the_offending_text() {
        let problem = check("[routs.a]", "unknown table `routs`", "routs", (1, 2));
        assert_eq!(problem.help.as_deref(), Some("did you mean `routes`?"));
        check("routes = 1", "expected a table of named objects, found a whole number", "1", (1, 10));
        check("[routes.'a b']", "a name must not contain ' '", "'a b'", (1, 9));
        let message = "a route needs an `upstream`, or a middleware that answers every request";
        check("[routes.a]\nmatch = 'Path(\"/\")'", message, "[routes.a]", (1, 1));
        check("[listeners]\na = { address = ':80', tls = { min_version = '1.1' } }", "unknown keyword `1.1`", "'1.1'", (2, 46));
        check("[upstreams.a]\nprotocol = 'h2'", "`protocol = \"h2\"` needs `tls`; without TLS it is \"h2c\"", "protocol", (2, 1));
        let message = "`5` is not a duration such as \"2s\" or \"500ms\": time unit needed, for example 5sec or 5ms";
        check("[upstreams.a.timeouts]\nconnect = '5'", message, "'5'", (2, 11));
        check("[server]\nworker = 1", "unknown key `worker`", "worker", (2, 1));
        check("[providers.etdc]\n", "unknown provider `etdc`", "[providers.etdc]", (1, 1));
        check("[providers.a]\ntype = 'etdc'", "unknown provider `etdc`", "'etdc'", (2, 8));
        check("[providers.etcd]\nendpoints = []", "`endpoints` needs at least one URL", "[]", (2, 13));
    }

    #[test]
    fn rules_of_tcp_routes_are_about_connections() {
        let rule = |rule: &str, message: &str, offending_text: &str, column| {
            let text = format!("[tcp_routes.t]\nlistener = 'l'\nupstream = 'u'\nmatch = '{rule}'");
            check(&text, message, offending_text, (4, column))
        };
        let problem = rule("Alpn(\"h2\") || Snii(\"x\")", "unknown predicate `Snii`", "Snii", 24);
        assert_eq!(problem.help.as_deref(), Some("did you mean `Sni`?"));
        let problem = rule("Path(\"/\")", "`Path` asks about a request, and this rule is about connections", "Path", 10);
        assert_eq!(problem.help.as_deref(), Some("there are ClientIp, Sni, Alpn, ClientCert"));
        let problem = rule("Sni(\"*.a.*\")", "`*` stands only for the first labels of a host: `*.a.com`", "\"*.a.*\"", 14);
        assert_eq!(problem.help, None, "`HostRegexp` is for requests");
        rule("Sni()", "`Sni` takes at least 1 argument, found 0", "Sni()", 10);
    }

    #[test]
    fn providers_are_told_apart_by_type_or_name() {
        let text = "[providers.more]\ntype = 'file'\npath = 'x'\n[providers.etcd]\nendpoints = ['http://e:2379']";
        let config = file(text).unwrap();
        assert!(config.problems.is_empty(), "{:?}", config.problems);
        let [(more, ProviderConfig::File(_)), (etcd, ProviderConfig::Etcd(_))] = config.providers.as_slice() else {
            panic!("not as written: {:?}", config.providers)
        };
        assert_eq!((more.as_str(), etcd.as_str()), ("more", "etcd"));
    }

    #[test]
    fn a_syntax_error_is_about_the_file() {
        let problems = file("[routes.a]\nmatch = = 'x'\n[upstreams\n").unwrap_err();
        assert!(problems.len() >= 2);
        assert_eq!(place(problems[0].origin.as_ref().unwrap()).0, 2);
        assert!(problems[0].render(false).contains("nuncio.toml:2:"));
    }

    #[test]
    fn the_caret_goes_into_the_rule() {
        let text = "[routes.a]\nmatch = 'Pth(\"/\")'\n";
        let node = Node::from_toml(text).unwrap();
        let rule = node.get("routes").and_then(|routes| routes.get("a")).and_then(|route| route.get("match")).unwrap();
        let written = &text[rule.span.clone()];
        assert_eq!(&written[token::locate(written, 0..3)], "Pth");
    }

    #[test]
    fn json_errors_know_key_and_text() {
        let text = r#"{"endpoints":["10.0.0.1:80"],"stikcy":{"cookie":"a"}}"#;
        let object = ObjectId::new(Kind::Upstream, &Name::literal("api"));
        let problem = decode_json::<Upstream>(text, object.clone(), key()).unwrap_err();
        assert_eq!((offending(&problem), problem.help.as_deref()), ("\"stikcy\"", Some("did you mean `sticky`?")));
        assert_eq!((problem.object.clone(), problem.origin.clone()), (Some(object), Some(key())));
        assert!(problem.render(false).contains("etcd: key /nuncio/x, revision 7"), "{}", problem.render(false));
    }

    #[test]
    fn an_endpoint_is_an_address_or_json() {
        let decode = |text: &str| decode_endpoint(text, endpoint_id(), key());
        let check = |text: &str| decode(text).map(|endpoint| (endpoint.address.to_string(), endpoint.weight));
        assert_eq!(check("127.0.0.1:3000\n"), Ok(("127.0.0.1:3000".into(), 1)));
        assert_eq!(check("\"127.0.0.1:3000\""), Ok(("127.0.0.1:3000".into(), 1)));
        assert_eq!(check("app.internal:3000"), Ok(("app.internal:3000".into(), 1)));
        assert_eq!(check(" {\"address\":\"[::1]:3000\",\"weight\":3}"), Ok(("[::1]:3000".into(), 3)));
        for (text, expected) in
            [("web", "web"), ("", ""), (r#"{"address":"web"}"#, r#""web""#), (r#"{"address":"1.1.1.1:1","weight":1001}"#, "1001")]
        {
            assert_eq!(offending(&decode(text).unwrap_err()), expected);
        }
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let text = " ".repeat(JSON_BYTES_MAX + 1) + "x";
        assert!(decode_json::<Endpoint>(&text, endpoint_id(), key()).unwrap_err().message.contains("more than"));
        assert!(file(&" ".repeat(FILE_BYTES_MAX + 1)).unwrap_err()[0].message.contains("more than"));
    }

    #[test]
    fn keys_are_never_shown() {
        let pem = "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----";
        let config = file(&format!("[certificates.a]\ncert = 1\nkey = \"\"\"{pem}\"\"\"")).unwrap();
        let problem = config.snapshot.certificates["a"].problem().unwrap();
        assert!(!problem.snippet.as_ref().unwrap().source.contains("MIIE"));
        let object = ObjectId::new(Kind::Certificate, &Name::literal("a"));
        let text = serde_json::json!({ "crt": "x", "key": pem }).to_string();
        let problem = decode_json::<Certificate>(&text, object, key()).unwrap_err();
        assert!(!problem.render(false).contains("MIIE"), "{}", problem.render(false));
    }

    #[test]
    fn problems_are_bounded() {
        let text: String = (0..1_500).map(|number| format!("unknown{number} = 1\n")).collect();
        assert_eq!(file(&text).unwrap().snapshot.problems.len(), problem::PROBLEMS_MAX + 1);
    }
}
