//! Answers every request by the address of another place.
//!
//! ```toml
//! redirect = { to = "https://new.example.com${path}${query}", status = 301 }
//! redirect = { host = "www.example.com" }
//! ```

use std::fmt::Write;

use http::uri::{Authority, Scheme};
use http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

use super::{BuildError, Exchange, Flow, RequestHead, Step, answer, host};

/// Where to send clients: `to`, or those parts of the address that change.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Redirect {
    /// The whole address. `${scheme}`, `${host}` (without port), `${authority}` (with port), `${path}` and `${query}` (with its `?`, or
    /// nothing) are those of the request; `$$` is a dollar sign.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// `"http"` or `"https"`. Default: the request's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// The host. Default: the request's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The port. Default: the request's, or the scheme's own when the scheme or the host changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The path, with variables as in `to`. Default: the request's. The query stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// 301, 302 (default), 307 or 308. Clients keep the method at 307 and 308, and remember 301 and 308.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

impl Redirect {
    pub(super) fn build(&self) -> Result<impl Step + use<>, BuildError> {
        let error = |message| BuildError(format!("redirect: {message}"));
        let template = self.template().and_then(|text| Template::parse(&text)).map_err(error)?;
        let status = parse_status(self.status.unwrap_or(302)).map_err(error)?;
        Ok(To { template, status })
    }

    fn template(&self) -> Result<String, String> {
        let is_structured = self.scheme.is_some() || self.host.is_some() || self.port.is_some() || self.path.is_some();
        match &self.to {
            Some(_) if is_structured => {
                Err("`to` is the whole address; it cannot be combined with `scheme`, `host`, `port`, `path`".into())
            }
            Some(to) => check_start(to).map(|()| to.clone()),
            None if is_structured => self.structured(),
            None => Err("needs `to`, or one of `scheme`, `host`, `port` and `path`".into()),
        }
    }

    fn structured(&self) -> Result<String, String> {
        let scheme = match self.scheme.as_deref() {
            None => "${scheme}",
            Some(scheme @ ("http" | "https")) => scheme,
            Some(scheme) => return Err(format!("`scheme = {scheme:?}` is neither \"http\" nor \"https\"")),
        };
        if let Some(host) = &self.host
            && !Authority::try_from(host.as_str()).is_ok_and(|authority| authority.host() == host)
        {
            return Err(format!("`host = {host:?}` is not a host name or IP address without port"));
        }
        let host = match &self.host {
            Some(host) => host,
            None if self.port.is_some() || self.scheme.is_some() => "${host}",
            None => "${authority}",
        };
        let port = self.port.map_or(String::new(), |port| format!(":{port}"));
        let path = self.path.as_deref().unwrap_or("${path}");
        if !path.starts_with(['/', '$']) {
            return Err(format!("`path = {path:?}` must start with `/`"));
        }
        Ok(format!("{scheme}://{host}{port}{path}${{query}}"))
    }
}

fn check_start(to: &str) -> Result<(), String> {
    let is_address = ["http://", "https://", "${scheme}://", "/", "${path}"].iter().any(|start| to.starts_with(start));
    if is_address { Ok(()) } else { Err(format!("`to = {to:?}` must start with `https://`, `http://`, `${{scheme}}://` or `/`")) }
}

/// Reads the status of a redirect.
///
/// # Errors
/// A sentence that lists those there are.
pub(super) fn parse_status(status: u16) -> Result<StatusCode, String> {
    match status {
        301 => Ok(StatusCode::MOVED_PERMANENTLY),
        302 => Ok(StatusCode::FOUND),
        307 => Ok(StatusCode::TEMPORARY_REDIRECT),
        308 => Ok(StatusCode::PERMANENT_REDIRECT),
        _ => Err(format!("`status = {status}` is none of 301, 302, 307 and 308")),
    }
}

#[derive(Debug)]
struct To {
    template: Template,
    status: StatusCode,
}

impl Step for To {
    fn request(&self, head: &mut RequestHead, exchange: &mut Exchange) -> Flow {
        match self.template.fill(head, exchange) {
            Some(location) => Flow::Respond(answer::redirect(self.status, location)),
            None => Flow::Respond(answer::text(StatusCode::BAD_REQUEST, "The request has no valid host.\n")),
        }
    }

    fn always_responds(&self) -> bool {
        true
    }
}

/// An address with gaps.
#[derive(Debug)]
struct Template(Vec<Piece>);

#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Scheme,
    Host,
    Authority,
    Path,
    Query,
}

impl Template {
    fn parse(text: &str) -> Result<Self, String> {
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once('$') {
            let literal = |text: &str| Piece::Text(text.into());
            if let Some(after) = after.strip_prefix('$') {
                pieces.extend([literal(before), literal("$")]);
                rest = after;
                continue;
            }
            let name = after.strip_prefix('{').and_then(|after| after.split_once('}'));
            let (name, after) = name.ok_or_else(|| format!("{text:?} has a `$` without `{{name}}`; a plain dollar sign is `$$`"))?;
            pieces.extend([literal(before), Piece::variable(name)?]);
            rest = after;
        }
        pieces.push(Piece::Text(rest.into()));
        match pieces.iter().find(|piece| matches!(piece, Piece::Text(text) if HeaderValue::from_str(text).is_err())) {
            Some(_) => Err(format!("{text:?} cannot be sent in a header field")),
            None => Ok(Self(pieces)),
        }
    }

    fn fill(&self, head: &RequestHead, exchange: &Exchange) -> Option<HeaderValue> {
        let mut location = String::with_capacity(128);
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => location.push_str(text),
                Piece::Scheme => location.push_str(if exchange.is_https { Scheme::HTTPS.as_str() } else { Scheme::HTTP.as_str() }),
                Piece::Host => location.push_str(host::of(head)?.host()),
                Piece::Authority => location.push_str(host::of(head)?.as_str()),
                Piece::Path => push_path(&mut location, head.uri.path()),
                Piece::Query => head.uri.query().map_or(Ok(()), |query| write!(location, "?{query}")).ok()?,
            }
        }
        HeaderValue::try_from(location).ok()
    }
}

impl Piece {
    fn variable(name: &str) -> Result<Self, String> {
        Ok(match name {
            "scheme" => Self::Scheme,
            "host" => Self::Host,
            "authority" => Self::Authority,
            "path" => Self::Path,
            "query" => Self::Query,
            _ => return Err(format!("`${{{name}}}` is none of `${{scheme}}`, `${{host}}`, `${{authority}}`, `${{path}}`, `${{query}}`")),
        })
    }
}

/// Browsers take `//evil.com`, and `/\evil.com` too, as an address on another host: a location that starts with the path of a request
/// must not start like that.
fn push_path(location: &mut String, path: &str) {
    if location.is_empty() {
        location.push('/');
        location.push_str(path.trim_start_matches(['/', '\\']));
    } else {
        location.push_str(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::testing::{request, run};

    fn build(json: &str) -> Result<impl Step, BuildError> {
        serde_json::from_str::<Redirect>(json).unwrap().build()
    }

    #[test]
    fn fills_in_the_request() {
        let check = |json: &str, uri: &str, expected: &str| {
            let step = build(json).unwrap();
            assert!(step.always_responds());
            let answer = run(&step, &mut request(uri, &[("host", "a.com:8080")])).unwrap();
            let location = answer.headers().get("location").map_or("", |value| value.to_str().unwrap());
            assert_eq!(format!("{} {location}", answer.status().as_u16()), expected);
        };
        check(r#"{"to":"https://b.com${path}${query}"}"#, "/x?y=1", "302 https://b.com/x?y=1");
        check(r#"{"to":"https://b.com${path}${query}","status":308}"#, "/x", "308 https://b.com/x");
        check(r#"{"to":"${scheme}://${host}/$$"}"#, "/x", "302 http://a.com/$");
        check(r#"{"host":"b.com"}"#, "/x?y", "302 http://b.com/x?y");
        check(r#"{"scheme":"https"}"#, "/x", "302 https://a.com/x");
        check(r#"{"scheme":"https","port":8443}"#, "/x", "302 https://a.com:8443/x");
        check(r#"{"path":"/new${path}"}"#, "/x?y", "302 http://a.com:8080/new/x?y");
        check(r#"{"path":"/"}"#, "https://h2.com/x", "302 http://h2.com/");
        check(r#"{"to":"${path}"}"#, "//evil.com/x", "302 /evil.com/x");
        check(r#"{"to":"/a${path}"}"#, "//x", "302 /a//x");
    }

    #[test]
    fn needs_a_valid_host() {
        let check = |host: &str| {
            let answer = run(&build(r#"{"path":"/"}"#).unwrap(), &mut request("/", &[("host", host)]));
            answer.unwrap().status().as_u16()
        };
        assert_eq!(check("a.com"), 302);
        assert_eq!(check("user@evil.com"), 400);
        assert_eq!(check("a.com/evil"), 400);
        assert_eq!(check(""), 400);
    }

    #[test]
    fn refuses_what_cannot_work() {
        let check = |json: &str, part: &str| {
            let error = build(json).err().unwrap().0;
            assert!(error.contains(part), "{error}");
        };
        check("{}", "needs `to`");
        check(r#"{"status":301}"#, "needs `to`");
        check(r#"{"to":"https://b.com","host":"c.com"}"#, "cannot be combined");
        check(r#"{"to":"b.com"}"#, "must start with `https://`");
        check(r#"{"to":"https://b.com${pth}"}"#, "`${pth}` is none of");
        check(r#"{"to":"https://b.com/$1"}"#, "a plain dollar sign is `$$`");
        check(r#"{"to":"https://b.com/\n"}"#, "header field");
        check(r#"{"to":"https://b.com","status":303}"#, "none of 301");
        check(r#"{"scheme":"ftp"}"#, "neither");
        check(r#"{"host":"b.com:80"}"#, "without port");
        check(r#"{"path":"x"}"#, "must start with `/`");
        assert!(serde_json::from_str::<Redirect>(r#"{"too":"x"}"#).is_err());
    }
}
