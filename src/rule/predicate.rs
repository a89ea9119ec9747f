//! One question about a request, and the list of all that a rule may ask.
//!
//! To add one: a file with its type, how it is parsed and how it matches; a variant of [`Predicate`]; a line in [`PREDICATES`].

use std::ops::{Range, RangeInclusive};

use super::alpn::{self, Protocols};
use super::client_ip::{self, Networks};
use super::expr::Expr;
use super::header::{self, HeaderMatch, ValueMatch};
use super::host_pattern::HostPattern;
use super::identity::{self, Identities};
use super::method::{self, MethodSet};
use super::parse::Subject;
use super::path_pattern::PathPattern;
use super::pattern::Pattern;
use super::query::QueryMatch;
use super::{RequestView, RuleError};

/// One question about a request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Predicate {
    Host(HostPattern),
    Path(PathPattern),
    Method(MethodSet),
    Header(HeaderMatch),
    Query(QueryMatch),
    ClientIp(Networks),
    Alpn(Protocols),
    ClientCert(Identities),
}

impl Predicate {
    pub(crate) fn matches(&self, request: &RequestView<'_>) -> bool {
        match self {
            Self::Host(pattern) => pattern.matches(request.host),
            Self::Path(pattern) => pattern.matches(request.path),
            Self::Method(methods) => methods.matches(request.method),
            Self::Header(field) => field.matches(request.headers),
            Self::Query(parameter) => parameter.matches(request.query),
            Self::ClientIp(networks) => networks.matches(request.client_ip),
            Self::Alpn(protocols) => protocols.matches(request.alpn),
            Self::ClientCert(identities) => identities.matches(request.identities),
        }
    }

    /// Whether every request fulfils it, so that it says nothing.
    pub(crate) fn is_everything(&self) -> bool {
        matches!(self, Self::Path(pattern) if pattern.is_everything())
    }
}

/// How a predicate is written.
pub(crate) struct Syntax {
    pub(crate) name: &'static str,
    /// What it asks about.
    pub(crate) about: &'static [Subject],
    /// How many arguments it takes.
    pub(crate) arity: RangeInclusive<usize>,
    /// What it is, given as many arguments.
    pub(crate) build: fn(&[Argument]) -> Result<Expr, RuleError>,
}

/// Every predicate of the language.
pub(crate) static PREDICATES: [Syntax; 13] = [
    Syntax {
        name: "Host",
        about: &[Subject::Request],
        arity: 1..=usize::MAX,
        build: |list| any_of(list, |text| HostPattern::parse(text).map(Predicate::Host)),
    },
    Syntax {
        name: "HostRegexp",
        about: &[Subject::Request],
        arity: 1..=1,
        build: |list| any_of(list, |text| HostPattern::parse_regexp(text).map(Predicate::Host)),
    },
    Syntax {
        name: "Path",
        about: &[Subject::Request],
        arity: 1..=usize::MAX,
        build: |list| any_of(list, |text| PathPattern::parse(text).map(Predicate::Path)),
    },
    Syntax {
        name: "PathPrefix",
        about: &[Subject::Request],
        arity: 1..=usize::MAX,
        build: |list| any_of(list, |text| PathPattern::parse_prefix(text).map(Predicate::Path)),
    },
    Syntax {
        name: "PathRegexp",
        about: &[Subject::Request],
        arity: 1..=1,
        build: |list| any_of(list, |text| PathPattern::parse_regexp(text).map(Predicate::Path)),
    },
    Syntax { name: "Method", about: &[Subject::Request], arity: 1..=usize::MAX, build: methods },
    Syntax {
        name: "Header",
        about: &[Subject::Request],
        arity: 1..=2,
        build: |list| field(list, |text| header::parse_value(text).map(ValueMatch::Exact)),
    },
    Syntax {
        name: "HeaderRegexp",
        about: &[Subject::Request],
        arity: 2..=2,
        build: |list| field(list, |text| Pattern::parse(text).map(ValueMatch::Regexp)),
    },
    Syntax { name: "Query", about: &[Subject::Request], arity: 1..=2, build: parameter },
    Syntax { name: "ClientIp", about: &[Subject::Request, Subject::Connection], arity: 1..=usize::MAX, build: networks },
    Syntax { name: "Sni", about: &[Subject::Connection], arity: 1..=usize::MAX, build: |list| any_of(list, server_name) },
    Syntax { name: "Alpn", about: &[Subject::Connection], arity: 1..=usize::MAX, build: protocols },
    Syntax { name: "ClientCert", about: &[Subject::Request, Subject::Connection], arity: 1..=usize::MAX, build: identities },
];

fn any_of(arguments: &[Argument], parse: fn(&str) -> Result<Predicate, Invalid>) -> Result<Expr, RuleError> {
    let predicates = arguments.iter().map(|argument| argument.parse(parse).map(Expr::from)).collect::<Result<_, _>>()?;
    Ok(Expr::or(predicates))
}

/// A host as those of requests. What helps those does not help here: there are no regular expressions, and one listener.
fn server_name(text: &str) -> Result<Predicate, Invalid> {
    HostPattern::parse(text).map(Predicate::Host).map_err(|invalid| Invalid { help: None, ..invalid })
}

fn methods(arguments: &[Argument]) -> Result<Expr, RuleError> {
    let methods = arguments.iter().map(|argument| argument.parse(method::parse)).collect::<Result<_, _>>()?;
    Ok(Predicate::Method(MethodSet::new(methods)).into())
}

fn networks(arguments: &[Argument]) -> Result<Expr, RuleError> {
    let networks = arguments.iter().map(|argument| argument.parse(client_ip::parse)).collect::<Result<_, _>>()?;
    Ok(Predicate::ClientIp(Networks::new(networks)).into())
}

fn protocols(arguments: &[Argument]) -> Result<Expr, RuleError> {
    let names = arguments.iter().map(|argument| argument.parse(alpn::parse)).collect::<Result<_, _>>()?;
    Ok(Predicate::Alpn(Protocols::new(names)).into())
}

fn identities(arguments: &[Argument]) -> Result<Expr, RuleError> {
    let patterns = arguments.iter().map(|argument| argument.parse(identity::parse)).collect::<Result<_, _>>()?;
    Ok(Predicate::ClientCert(Identities::new(patterns)).into())
}

fn field(arguments: &[Argument], parse_value: fn(&str) -> Result<ValueMatch, Invalid>) -> Result<Expr, RuleError> {
    let [name, value @ ..] = arguments else { return Ok(Expr::Or(Vec::new())) };
    let name = name.parse(header::parse_name)?;
    let value = value.first().map_or(Ok(ValueMatch::Present), |value| value.parse(parse_value))?;
    Ok(Predicate::Header(HeaderMatch { name, value }).into())
}

fn parameter(arguments: &[Argument]) -> Result<Expr, RuleError> {
    let mut texts = arguments.iter().map(|argument| Box::from(&*argument.text));
    let key = texts.next().unwrap_or_default();
    Ok(Predicate::Query(QueryMatch { key, value: texts.next() }).into())
}

/// An argument of a predicate: a string of the rule.
#[derive(Debug)]
pub(crate) struct Argument {
    /// The string, its escapes undone.
    pub(crate) text: String,
    /// Where it is in the rule, with its quotes.
    pub(crate) span: Range<usize>,
}

impl Argument {
    fn parse<T>(&self, parse: impl FnOnce(&str) -> Result<T, Invalid>) -> Result<T, RuleError> {
        parse(&self.text).map_err(|Invalid { message, help }| RuleError { message, span: self.span.clone(), help })
    }
}

/// Why an argument is none, from those who do not know where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Invalid {
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

impl Invalid {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}
