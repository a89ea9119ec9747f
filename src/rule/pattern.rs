//! A regular expression over a whole value: host, path or header field.
//!
//! It must match the **whole** value, as if written between `^` and `$`: `HostRegexp`, `PathRegexp` and `HeaderRegexp` all agree
//! on that, as Envoy and the Gateway API do. A forgotten anchor is how `PathRegexp("/admin")` would take `/x/admin` elsewhere;
//! here one writes `.*` where anything may stand.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};

use super::predicate::Invalid;

/// The most memory that one compiled regular expression may take, in bytes. Also bounds its lazy DFA, per thread in use.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// A regular expression that matches whole values, in time linear in the value. Two are equal when their text and case rule are.
#[derive(Debug, Clone)]
pub(crate) struct Pattern(Arc<Regex>);

impl Pattern {
    /// Compiles `source`, which distinguishes upper from lower case.
    pub(crate) fn parse(source: &str) -> Result<Self, Invalid> {
        // Alone first: `a)|(b` is no regular expression, but would be one between the anchors.
        compile(source)?;
        compile(&format!(r"\A(?:{source})\z")).map(|regex| Self(Arc::new(regex)))
    }

    /// Compiles `source`, which takes upper for lower case.
    pub(crate) fn parse_ignoring_case(source: &str) -> Result<Self, Invalid> {
        compile(source)?;
        compile(&format!(r"(?i)\A(?:{source})\z")).map(|regex| Self(Arc::new(regex)))
    }

    /// Whether the whole of `value` matches. A thread's first matches may allocate the automaton's cache.
    pub(crate) fn is_match(&self, value: &[u8]) -> bool {
        self.0.is_match(value)
    }
}

fn compile(source: &str) -> Result<Regex, Invalid> {
    RegexBuilder::new(source).size_limit(COMPILED_BYTES_MAX).dfa_size_limit(COMPILED_BYTES_MAX).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => Invalid::new(format!("the regular expression takes more than {COMPILED_BYTES_MAX} bytes"))
            .help("large counts such as `{1000}` and Unicode classes such as `\\w` take the most"),
        error => Invalid::new(format!("not a regular expression: {}", last_line(&error.to_string()))),
    })
}

/// The regex crate draws the expression over several lines; the reason is on the last one. We draw the rule ourselves.
fn last_line(message: &str) -> &str {
    let line = message.lines().next_back().unwrap_or(message);
    line.strip_prefix("error: ").unwrap_or(line)
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

impl PartialOrd for Pattern {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pattern {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.as_str().cmp(other.0.as_str())
    }
}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.as_str().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_whole_value() {
        let pattern = Pattern::parse("a|/admin").expect("valid");
        assert!(pattern.is_match(b"/admin"));
        assert!(!pattern.is_match(b"/admin/"));
        assert!(!pattern.is_match(b"/x/admin"));
        assert!(!pattern.is_match(b"/admin\n"));
        assert!(!Pattern::parse("(?m)^a$").expect("valid").is_match(b"a\nb"));
    }

    #[test]
    fn explains_what_is_wrong_on_one_line() {
        assert_eq!(Pattern::parse("a(").expect_err("unclosed").message, "not a regular expression: unclosed group");
        assert_eq!(Pattern::parse("a)|(b").expect_err("unopened").message, "not a regular expression: unopened group");
        assert!(Pattern::parse(r"\w{5000}").expect_err("too big").message.contains("1048576 bytes"));
    }
}
