//! Requests that write, to stores that speak HTTP.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::store::Put;
use crate::discovery::ProviderError;
use crate::discovery::http_client::{Answer, Aside, Question};

/// For an answer: once for its head, once for the rest.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// What an answer says to an entry: a status that is no success is a refusal.
pub(super) fn put(answer: Answer) -> Put {
    if answer.status.is_success() { Put::Done } else { Put::Refused(format!("{}: {}", answer.status, answer.quote())) }
}

/// One server of a store.
pub(super) struct Server {
    /// For errors: `consul http://127.0.0.1:8500`.
    pub(super) name: String,
    pub(super) aside: Aside,
}

impl Server {
    /// Sends a request. Its answer if the status is a success or one of `others`.
    pub(super) async fn send(
        &mut self,
        method: Method,
        path: &str,
        content: &'static str,
        body: String,
        others: &[StatusCode],
    ) -> Result<Answer, ProviderError> {
        let mut fields = HeaderMap::new();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(content));
        let question = Question { method, path, fields: &fields, body: Bytes::from(body), limits: [ANSWER_TIMEOUT, ANSWER_TIMEOUT] };
        let answer = self.aside.ask_with(&question).await.map_err(|error| self.error("write", error.into()))?;
        if answer.status.is_success() || others.contains(&answer.status) {
            return Ok(answer);
        }
        let doing = format!("{} {path}", question.method);
        Err(self.error(&doing, format!("{}: {}", answer.status, answer.quote()).into()))
    }

    fn error(&self, doing: &str, cause: Box<dyn std::error::Error + Send + Sync>) -> ProviderError {
        ProviderError { doing: format!("{}: {doing}", self.name), cause }
    }
}
