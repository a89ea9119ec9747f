//! Puts a prefix in front of the path.

use serde::{Deserialize, Serialize};

use super::{BuildError, Exchange, Flow, RequestHead, Step, path};

/// The prefix to put in front, such as `"/api"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddPrefix(pub String);

impl AddPrefix {
    pub(super) fn build(&self) -> Result<impl Step + use<>, BuildError> {
        let prefix = path::parse_prefix(&self.0).map_err(|message| BuildError(format!("add_prefix: {message}")))?;
        Ok(Add { prefix: prefix.into() })
    }
}

#[derive(Debug)]
struct Add {
    prefix: String,
}

impl Step for Add {
    fn request(&self, head: &mut RequestHead, _: &mut Exchange) -> Flow {
        match head.uri.path() {
            path if path.starts_with('/') => {
                let path = [&self.prefix, path].concat();
                path::replace(head, &path)
            }
            // `OPTIONS *` asks about the server, and CONNECT names no path.
            _ => Flow::Continue,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::testing::{request, run};

    #[test]
    fn goes_in_front_of_the_path() {
        let check = |prefix: &str, uri: &str| {
            let mut head = request(uri, &[]);
            let answer = run(&AddPrefix(prefix.into()).build().unwrap(), &mut head);
            answer.map_or(head.uri.to_string(), |answer| answer.status().as_str().into())
        };
        assert_eq!(check("/api", "/users?q=1"), "/api/users?q=1");
        assert_eq!(check("/api/", "/"), "/api/");
        assert_eq!(check("/api", "*"), "*");
        assert_eq!(check("/api", &format!("/{}", "x".repeat(65_530))), "400");
        assert!(AddPrefix("api".into()).build().is_err());
    }
}
