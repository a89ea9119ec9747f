//! Rewrites the path by a regular expression.
//!
//! Every match in the path is replaced; anchor the expression (`^…$`) to replace the whole. The query stays. A path that does not match
//! stays too. The result must be a normalised path, otherwise the request is answered 400: it is not forwarded as something that no
//! rule has seen.

use std::borrow::Cow;

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::{BuildError, Exchange, Flow, RequestHead, Step, path};

/// What to replace in the path, and by what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewritePath {
    /// The expression, in the syntax of the `regex` crate. It takes time linear in the length of the path.
    pub regex: String,
    /// What stands in place of each match. `$1` or `${1}` is the first group, `${name}` the one of that name, `$$` a dollar sign.
    pub replacement: String,
}

impl RewritePath {
    pub(super) fn build(&self) -> Result<impl Step + use<>, BuildError> {
        let regex = Regex::new(&self.regex).map_err(|error| BuildError(format!("rewrite_path: {error}")))?;
        match references(&self.replacement).find(|name| !has_group(&regex, name)) {
            Some(name) => Err(BuildError(format!(
                "rewrite_path: the replacement {:?} names the group `{name}`, which {:?} does not have; \
                 a reference takes all letters, digits and underscores that follow: write `${{1}}a`, not `$1a`",
                self.replacement, self.regex
            ))),
            None => Ok(Rewrite { regex, replacement: self.replacement.clone() }),
        }
    }
}

fn has_group(regex: &Regex, name: &str) -> bool {
    match name.parse::<usize>() {
        Ok(number) => number < regex.captures_len(),
        Err(_) => regex.capture_names().flatten().any(|group| group == name),
    }
}

/// The groups that a replacement refers to, by the grammar of [`Regex::replace`], which takes one that does not exist as empty.
fn references(replacement: &str) -> impl Iterator<Item = &str> {
    let mut rest = replacement;
    std::iter::from_fn(move || {
        loop {
            let (_, after) = rest.split_once('$')?;
            if let Some(after) = after.strip_prefix('$') {
                rest = after;
            } else if let Some((name, after)) = after.strip_prefix('{').and_then(|after| after.split_once('}')) {
                rest = after;
                return Some(name);
            } else {
                let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(after.len());
                let (name, after) = after.split_at(end);
                rest = after;
                if !name.is_empty() {
                    return Some(name);
                }
            }
        }
    })
}

#[derive(Debug)]
struct Rewrite {
    regex: Regex,
    replacement: String,
}

impl Step for Rewrite {
    fn request(&self, head: &mut RequestHead, _: &mut Exchange) -> Flow {
        match self.regex.replace_all(head.uri.path(), &self.replacement) {
            Cow::Borrowed(_) => Flow::Continue,
            Cow::Owned(path) => path::replace(head, &path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::testing::{request, run};

    fn build(regex: &str, replacement: &str) -> Result<impl Step, BuildError> {
        RewritePath { regex: regex.into(), replacement: replacement.into() }.build()
    }

    #[test]
    fn replaces_groups_and_keeps_the_query() {
        let check = |regex: &str, replacement: &str, uri: &str| {
            let mut head = request(uri, &[]);
            let answer = run(&build(regex, replacement).unwrap(), &mut head);
            answer.map_or(head.uri.to_string(), |answer| answer.status().as_str().into())
        };
        assert_eq!(check("^/users/([0-9]+)$", "/u/$1", "/users/7?full=1"), "/u/7?full=1");
        assert_eq!(check("^/users/(?<id>[0-9]+)$", "/u/${id}x", "/users/7"), "/u/7x");
        assert_eq!(check("^/users/([0-9]+)$", "/u/$1", "/posts/7"), "/posts/7");
        assert_eq!(check("^/files(/.*)$", "$1", "/files/a"), "/a");
        assert_eq!(check("^/files/(.*)$", "$1", "/files/a"), "400", "not a path any more");
        assert_eq!(check("^/a/(.*)/b$", "/$1", "/a/..x/b"), "/..x");
        assert_eq!(check("x", "", "/.x./secret"), "400", "a dot segment that no rule has seen");
        assert_eq!(check("^/a$", "/b?c", "/a"), "400");
        assert_eq!(check("^/a$", "/b c", "/a"), "400");
    }

    #[test]
    fn refuses_groups_that_do_not_exist() {
        assert!(build("^/(a)$", "/$1$$2").is_ok());
        assert!(build("^/(a)$", "/$2").err().unwrap().0.contains("names the group `2`"));
        assert!(build("^/(a)$", "/$1b").err().unwrap().0.contains("write `${1}a`"));
        assert!(build("^/(a)$", "/${id}").is_err());
        assert!(build("^/(a$", "/").err().unwrap().0.contains("unclosed group"));
    }
}
