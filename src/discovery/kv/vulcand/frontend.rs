//! A frontend of vulcand → a route.

use super::super::groups::Wanted;
use super::super::json::Fields;
use super::expression;
use crate::config::providers::clean_name;
use crate::config::{MiddlewareRef, Problem, Route};
use crate::middleware::{BodyLimit, Middleware};

/// Reads a frontend, and what else is to be said of it.
///
/// Bodies stream, so `Stream` and `MaxMemBodyBytes` say nothing to us. That other settings are not carried over is a warning.
pub(in super::super) fn decode(value: &[u8]) -> Result<(Wanted, Option<Problem>), Problem> {
    let value = super::object(value)?;
    let frontend = Fields(&value);
    super::is_http(&frontend)?;
    let backend = match super::text(&frontend, "BackendId")? {
        "" => return Err(Problem::error("`BackendId` is missing")),
        backend => clean_name(backend).map_err(Problem::error)?,
    };
    let expression = expression::translate(super::text(&frontend, "Route")?)?;
    let settings = super::section(&frontend, "Settings")?;
    let mut route = Route { priority: expression.priority, ..Route::to(expression.rule, backend) };
    let body_bytes_max = super::number(&super::section(&settings, "Limits")?, "MaxBodyBytes")?;
    if body_bytes_max > 0 {
        route.middlewares.push(MiddlewareRef::Inline(Middleware::BodyLimit(BodyLimit(body_bytes_max))));
    }
    let passes_host = super::flag(&settings, "PassHostHeader")?;
    let mut left_out = Vec::new();
    if !super::text(&settings, "FailoverPredicate")?.is_empty() {
        left_out.push("`FailoverPredicate` (`retries` of the upstream are 2)");
    }
    if !super::text(&settings, "Hostname")?.is_empty() {
        left_out.push("`Hostname`");
    }
    if super::flag(&settings, "TrustForwardHeader")? {
        left_out.push("`TrustForwardHeader` (listeners have `trusted_proxies`)");
    }
    let warning = (!left_out.is_empty()).then(|| {
        let message = format!("of the frontend's settings these are not carried over: {}", left_out.join(", "));
        Problem::warning(message).effect("the frontend is served without them")
    });
    Ok((Wanted { route, passes_host }, warning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frontend_is_a_route() {
        let frontend = br#"{"Id":"f1","Route":"Path(`/`)","Type":"http","BackendId":"b1","Settings":{"Limits":{"MaxMemBodyBytes":0,"MaxBodyBytes":9},"FailoverPredicate":"","Hostname":"","TrustForwardHeader":false,"PassHostHeader":true,"Stream":false}}
"#;
        let (wanted, warning) = decode(frontend).unwrap();
        assert_eq!((wanted.route.rule.text(), wanted.passes_host, warning), ("Path(\"/\")", true, None));
        assert_eq!(wanted.route.upstream.as_ref().map(ToString::to_string).as_deref(), Some("b1"));
        assert_eq!(wanted.route.middlewares, [MiddlewareRef::Inline(Middleware::BodyLimit(BodyLimit(9)))]);
        let loud = br#"{"Route":"Path(`/`)","Type":"http","BackendId":"b1","Settings":{"FailoverPredicate":"IsNetworkError()","TrustForwardHeader":true}}"#;
        let warning = decode(loud).unwrap().1.unwrap();
        assert!(warning.message.contains("FailoverPredicate") && warning.message.contains("TrustForwardHeader"));
    }

    #[test]
    fn what_is_no_frontend_says_so() {
        for (value, message) in [
            (r#"{"Route":"Path(`/`)","Type":"http"}"#, "`BackendId`"),
            (r#"{"Route":"Path(`/`)","BackendId":"b"}"#, "`Type`"),
            (r#"{"Type":"http","BackendId":"b"}"#, "expected"),
            (r#"{"Route":"Path(`/`)","Type":"http","BackendId":"b","Settings":{"Limits":{"MaxBodyBytes":-1}}}"#, "not a whole number"),
        ] {
            let problem = decode(value.as_bytes()).unwrap_err();
            assert!(problem.message.contains(message), "{value}: {}", problem.message);
        }
    }
}
