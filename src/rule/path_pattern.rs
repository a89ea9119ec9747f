//! `Path("/a")`, `PathPrefix("/v1")` and `PathRegexp("...")`: which paths.

use std::sync::Arc;

use super::path::{PathError, normalize};
use super::pattern::Pattern;
use super::predicate::Invalid;

/// Paths that a rule takes. Compared with the path in the one spelling of [`normalize`]; what a rule is written with is brought
/// into that spelling too. Case counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum PathPattern {
    /// This path. A slash at its end counts.
    Exact(Arc<str>),
    /// This path and everything below it, by whole segments: `/v1` takes `/v1`, `/v1/` and `/v1/x`, not `/v10`. A slash at
    /// its end says nothing: `/v1/` is `/v1`, as in the Gateway API. `/` takes everything.
    /// Invariant: in the one spelling of paths, without a slash at the end, so `/` is empty.
    Prefix(Arc<str>),
    /// Paths that match from start to end. Escapes that [`normalize`] leaves are seen as they are: `%2F`.
    Regexp(Pattern),
}

impl PathPattern {
    /// The argument of `Path`.
    pub(crate) fn parse(text: &str) -> Result<Self, Invalid> {
        parse_path(text).map(|path| Self::Exact(path.into()))
    }

    /// The argument of `PathPrefix`.
    pub(crate) fn parse_prefix(text: &str) -> Result<Self, Invalid> {
        parse_path(text).map(|path| Self::Prefix(path.strip_suffix('/').unwrap_or(&path).into()))
    }

    /// The argument of `PathRegexp`.
    pub(crate) fn parse_regexp(source: &str) -> Result<Self, Invalid> {
        Pattern::parse(source).map(Self::Regexp)
    }

    /// Whether it takes `path`, which is in its one spelling.
    pub(crate) fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == &**exact,
            Self::Prefix(prefix) if prefix.is_empty() => true,
            Self::Prefix(prefix) => path.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Self::Regexp(pattern) => pattern.is_match(path.as_bytes()),
        }
    }

    /// Whether it takes everything: `PathPrefix("/")`, which says no more about the path than nothing does.
    pub(crate) fn is_everything(&self) -> bool {
        matches!(self, Self::Prefix(prefix) if prefix.is_empty())
    }

    pub(crate) fn specificity(&self) -> PathSpecificity {
        match self {
            Self::Exact(_) => PathSpecificity::Exact,
            Self::Prefix(prefix) if prefix.is_empty() => PathSpecificity::Any,
            Self::Prefix(prefix) => PathSpecificity::Prefix { bytes: prefix.len() },
            Self::Regexp(_) => PathSpecificity::Regexp,
        }
    }
}

/// How much a rule says about the path. More is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PathSpecificity {
    /// Nothing, or `PathPrefix("/")`.
    Any,
    /// A regular expression.
    Regexp,
    /// A prefix of this length. Of two prefixes of one path the longer one has more segments.
    Prefix {
        /// Bytes, without a slash at the end.
        bytes: usize,
    },
    /// One path.
    Exact,
}

fn parse_path(text: &str) -> Result<String, Invalid> {
    normalize(text).map(String::from).map_err(|error| {
        let invalid = Invalid::new(error.to_string());
        match error {
            PathError::NotAbsolute => invalid.help(format!("did you mean `/{text}`?")),
            PathError::Delimiter => invalid.help("`Query` looks at the query; a fragment is never sent"),
            _ => invalid,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: Result<PathPattern, Invalid>, takes: &[&str], leaves: &[&str]) {
        let pattern = pattern.expect("valid");
        for path in takes {
            assert!(pattern.matches(path), "{pattern:?} takes {path}");
        }
        for path in leaves {
            assert!(!pattern.matches(path), "{pattern:?} leaves {path}");
        }
    }

    #[test]
    fn exact_is_one_path() {
        check(PathPattern::parse("/v1"), &["/v1"], &["/v1/", "/v1/x", "/v", "/V1"]);
        check(PathPattern::parse("/caf%c3%a9"), &["/caf%C3%A9"], &["/caf"]);
        check(PathPattern::parse("/café"), &["/caf%C3%A9"], &["/caf"]);
    }

    #[test]
    fn a_prefix_ends_with_a_segment() {
        for prefix in ["/v1", "/v1/"] {
            check(PathPattern::parse_prefix(prefix), &["/v1", "/v1/", "/v1/x"], &["/v10", "/", "/v", "/x/v1", "/v1%2Fx"]);
        }
        check(PathPattern::parse_prefix("/"), &["/", "/x", "/x/y"], &[]);
    }

    #[test]
    fn a_regexp_takes_whole_paths() {
        check(PathPattern::parse_regexp(r"/img/.*\.jpg"), &["/img/a.jpg", "/img/a/b.jpg"], &["/x/img/a.jpg", "/img/a.jpg/"]);
    }

    #[test]
    fn more_said_is_more_specific() {
        let prefix = |text| PathPattern::parse_prefix(text).expect("valid").specificity();
        assert!(PathPattern::parse("/").expect("valid").specificity() > prefix("/v1/x"));
        assert!(prefix("/v1/x") > prefix("/v1"));
        assert!(prefix("/v1") > PathPattern::parse_regexp("/v1/x").expect("valid").specificity());
        assert_eq!(prefix("/"), PathSpecificity::Any);
    }

    #[test]
    fn refuses_what_no_request_has() {
        let error = PathPattern::parse("v1").expect_err("relative");
        assert_eq!(error.help.as_deref(), Some("did you mean `/v1`?"));
        assert!(PathPattern::parse("/a?b=c").is_err());
        assert!(PathPattern::parse_prefix("/../a").is_err());
    }
}
