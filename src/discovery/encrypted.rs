//! A provider whose endpoints of one upstream are reached by mutual TLS: what an ambassador makes of a source that knows nothing of it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::{Provider, ProviderError, Publisher};
use crate::config::snapshot::{Entry, UpstreamEntry};
use crate::config::upstream::UpstreamTls;
use crate::config::{Origin, Snapshot, Upstream};
use crate::names::Name;

/// A provider, of which one upstream gets this TLS.
pub struct Encrypted<P> {
    inner: P,
    upstream: Name,
    tls: UpstreamTls,
}

impl<P: Provider> Encrypted<P> {
    /// `inner`, with `tls` for its `upstream`.
    pub fn new(inner: P, upstream: Name, tls: UpstreamTls) -> Self {
        Self { inner, upstream, tls }
    }
}

impl<P: Provider> Provider for Encrypted<P> {
    fn name(&self) -> &Name {
        self.inner.name()
    }

    fn source(&self) -> Option<String> {
        self.inner.source().map(|source| format!("{source} by mutual TLS"))
    }

    fn watch<'a>(&'a mut self, publisher: &'a dyn Publisher) -> Pin<Box<dyn Future<Output = Result<(), ProviderError>> + Send + 'a>> {
        let Self { inner, upstream, tls } = self;
        Box::pin(async move {
            let publisher = Encrypting { publisher, upstream, tls };
            inner.watch(&publisher).await
        })
    }
}

struct Encrypting<'a> {
    publisher: &'a dyn Publisher,
    upstream: &'a Name,
    tls: &'a UpstreamTls,
}

impl Publisher for Encrypting<'_> {
    fn publish(&self, mut snapshot: Snapshot) {
        if let Some(entry) = snapshot.upstreams.get_mut(self.upstream) {
            *entry = Arc::new(encrypted(entry, self.tls, self.publisher_origin(entry)));
        }
        self.publisher.publish(snapshot);
    }

    fn contact(&self) {
        self.publisher.contact();
    }
}

impl Encrypting<'_> {
    /// Where the upstream comes from: its settings, or the first of its endpoints.
    fn publisher_origin(&self, entry: &UpstreamEntry) -> Origin {
        entry.origin().cloned().unwrap_or_else(|| Origin::program(self.upstream.clone()))
    }
}

/// What cannot be read stays so: without its settings nobody knows how it is to be reached.
fn encrypted(entry: &UpstreamEntry, tls: &UpstreamTls, origin: Origin) -> UpstreamEntry {
    let mut settings = entry.settings.clone().unwrap_or_else(|| Entry { origin, value: Ok(Upstream::default()) });
    if let Ok(upstream) = &mut settings.value {
        upstream.tls = Some(tls.clone());
    }
    UpstreamEntry { settings: Some(settings), endpoints: entry.endpoints.clone() }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::config::RoutingConfig;
    use crate::discovery::ProgramProvider;
    use crate::discovery::testing::Seen;

    #[tokio::test]
    async fn one_upstream_gets_tls_and_others_stay_as_they_are() {
        let (provider, handle) = ProgramProvider::new(Name::literal("program"));
        let mut config = RoutingConfig::default();
        config.upstreams.insert(Name::literal("web"), Upstream { retries: 7, ..Upstream::default() });
        config.upstreams.insert(Name::literal("other"), Upstream::default());
        let mut snapshot = Snapshot::of_program(config, &Name::literal("program"), Instant::now());
        let tls = UpstreamTls { certificate: Some(Name::literal("mesh")), ..UpstreamTls::default() };
        let tls_of = |snapshot: &Snapshot, name: &str| {
            let settings = snapshot.upstreams[name].settings.as_ref().unwrap().value.clone().unwrap();
            (settings.tls, settings.retries)
        };
        handle.publish_snapshot(snapshot.clone());
        drop(handle);
        let seen = Seen::default();
        Encrypted::new(provider, Name::literal("web"), tls.clone()).watch(&seen).await.unwrap();
        let published = seen.all().pop().unwrap();
        assert_eq!(tls_of(&published, "web"), (Some(tls.clone()), 7));
        assert_eq!(tls_of(&published, "other").0, None);
        // Endpoints alone, as registrators write them.
        let web = snapshot.upstreams.get_mut("web").unwrap();
        *web = Arc::new(UpstreamEntry { settings: None, endpoints: web.endpoints.clone() });
        Encrypting { publisher: &seen, upstream: &Name::literal("web"), tls: &tls }.publish(snapshot);
        assert_eq!(tls_of(&seen.all()[1], "web").0, Some(tls));
    }
}
