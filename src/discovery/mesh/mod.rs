//! A mesh: instances that know each other by certificates of one small CA, which a store keeps and a join token opens.
//!
//! As a provider it publishes one certificate, [`CERTIFICATE`]: ours, with its key and the CAs that are trusted. Listeners and upstreams
//! name it, and get the next one as they get any change of the table; with a data dir the last one serves when the store is down.
//!
//! | file | concept |
//! |---|---|
//! | [`token`] | the join token |
//! | [`state`] | what the store holds: CAs, and when each signs and is trusted |
//! | `authority` | certificates |
//!
//! Whoever holds the token can sign: there is no server of the CA that could be down, and none to be told who may be who. What that means
//! for trust is said in `docs/mutual-tls.md`.
//!
//! The key of the store is read every [`READ_INTERVAL`]: it is one small key that changes a few times a year, and a rotation gives everyone
//! half of its overlap to hear of it. What is due by the clock alone, a new certificate or the end of a CA, needs no store.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant, SystemTime};

use super::etcd_cell::EtcdCell;
use super::{Provider, ProviderError, Publisher};
use crate::backoff::random;
use crate::config::providers::{EtcdConfig, Join, MeshConfig, check_identity};
use crate::config::{Certificate, Pem, ProviderConfig, RoutingConfig, Snapshot};
use crate::names::Name;

mod authority;
pub mod state;
pub mod token;

pub use authority::Issued;
use state::State;
pub use token::Token;

/// What the certificate is called that a mesh provides.
pub const CERTIFICATE: &str = "mesh";
/// How often the store is asked for news.
pub const READ_INTERVAL: Duration = Duration::from_secs(2);
/// The shortest life of certificates that `nuncio mesh init` takes: with less, a store that is down for a while would end the mesh.
pub const LIFE_MIN: Duration = Duration::from_secs(30 * 60);
/// How long a CA could sign, if it were not rotated. Nothing else of a mesh lasts longer.
pub const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3_600);

/// The largest file of a token, in bytes.
const FILE_BYTES_MAX: u64 = 16 * 1024;

/// A certificate of a mesh, renewed in time.
#[derive(Debug)]
pub struct MeshProvider {
    name: Name,
    config: MeshConfig,
    /// What the store said last, and the token that opened it.
    known: Option<Known>,
    /// What is published.
    current: Option<Current>,
}

struct Known {
    token: Token,
    state: State,
}

/// What is published, and what it was made of.
struct Current {
    issued: Issued,
    signer: String,
    trusted: String,
    renew_at: SystemTime,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Known").field("token", &self.token).field("version", &self.state.version).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Current").field("not_after", &self.issued.not_after).field("renew_at", &self.renew_at).finish_non_exhaustive()
    }
}

/// Why nothing can be done with a mesh.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// The token cannot be read.
    #[error("{0}")]
    Token(#[from] token::TokenError),
    /// The file of the token cannot be read.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// What the store holds cannot be used.
    #[error("{0}")]
    State(#[from] state::StateError),
    /// The store cannot be used for that.
    #[error("{0}")]
    Store(String),
    /// There is nothing in the store.
    #[error("there is no mesh at {0}: `nuncio mesh init` makes one")]
    Absent(String),
    /// There is one already.
    #[error("there is a mesh at {0} already")]
    Present(String),
    /// Somebody else changed it meanwhile.
    #[error("somebody else changed the mesh at the same time: look, and try again")]
    Raced,
    /// The store holds an older state than it has shown before.
    #[error("the store holds version {found} of the mesh, and has held {known}: it was put back. Restart to accept that")]
    Older {
        /// What it holds.
        found: u64,
        /// What it held.
        known: u64,
    },
    /// A name that cannot be one.
    #[error("{0}")]
    Name(String),
}

/// The token of these settings.
///
/// # Errors
/// When it cannot be read.
pub fn read_token(join: &Join) -> Result<Token, MeshError> {
    let path = match join {
        Join::Token(token) => return Ok(Token::parse(token)?),
        Join::Path(path) => path,
    };
    let error = |reason: String| MeshError::File { path: path.display().to_string(), reason };
    let length = std::fs::metadata(path).map_err(|cause| error(cause.to_string()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(error(format!("it has {length} bytes, and a token is shorter")));
    }
    let text = zeroize::Zeroizing::new(std::fs::read_to_string(path).map_err(|cause| error(cause.to_string()))?);
    Token::parse(&text).map_err(|cause| error(cause.to_string()))
}

/// Makes a mesh in this store, and the token that opens it. The life of certificates is not checked against [`LIFE_MIN`].
///
/// # Errors
/// When there is one already, or the store cannot be written.
pub async fn create(store: &str, trust_domain: &str, life: Duration) -> Result<Token, MeshError> {
    check_trust_domain(trust_domain).map_err(MeshError::Name)?;
    let token = Token::generate(store, trust_domain)?;
    let mut cell = open_cell(store).await?;
    let state = State::new(trust_domain, life, SystemTime::now())?;
    match cell.write(state.seal(&token)?, 0).await.map_err(|error| MeshError::Store(error.to_string()))? {
        true => Ok(token),
        false => Err(MeshError::Present(cell.place())),
    }
}

/// Gives a mesh a new CA, and, if asked for, a new token, without which nobody hears of that CA. The one before is trusted for `overlap`.
///
/// # Errors
/// When the mesh cannot be read or written.
pub async fn rotate(token: &Token, overlap: Duration, is_token_new: bool) -> Result<Token, MeshError> {
    let mut cell = open_cell(&token.store).await?;
    let (state, revision) = read(&mut cell, token).await?;
    let next = state.rotated(overlap, SystemTime::now())?;
    let next_token = if is_token_new { Token::generate(&token.store, &token.trust_domain)? } else { token.clone() };
    match cell.write(next.seal(&next_token)?, revision).await.map_err(|error| MeshError::Store(error.to_string()))? {
        true => Ok(next_token),
        false => Err(MeshError::Raced),
    }
}

/// A certificate of the mesh for somebody who is no instance of ours, and the CAs that it trusts.
///
/// # Errors
/// When the mesh cannot be read.
pub async fn issue(token: &Token, identity: &str) -> Result<(Issued, String), MeshError> {
    check_identity(identity).map_err(MeshError::Name)?;
    let (state, _) = read(&mut open_cell(&token.store).await?, token).await?;
    let now = SystemTime::now();
    Ok((state.issue(identity, now)?, state.trusted(now)))
}

/// Whether it can be the first part of a SPIFFE id.
///
/// # Errors
/// A sentence that says what one looks like.
pub fn check_trust_domain(text: &str) -> Result<(), String> {
    let is_in_domain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_');
    if !text.is_empty() && text.len() <= 255 && text.bytes().all(is_in_domain) {
        return Ok(());
    }
    Err(format!("`{text}` is not a trust domain, such as \"example.org\": lower case letters, digits, `.`, `-` and `_`"))
}

async fn open_cell(store: &str) -> Result<EtcdCell, MeshError> {
    match ProviderConfig::parse_url(store).map_err(MeshError::Store)? {
        ProviderConfig::Etcd(config) => {
            // Beside the objects of that prefix, of which it is none.
            let key = format!("{}-mesh", config.prefix);
            EtcdCell::connect(&EtcdConfig { prefix: key, ..config }).await.map_err(|error| MeshError::Store(error.to_string()))
        }
        other => Err(MeshError::Store(format!("a mesh is kept in etcd, such as etcd://10.0.0.5:2379, and not in {}", other.kind()))),
    }
}

async fn read(cell: &mut EtcdCell, token: &Token) -> Result<(State, i64), MeshError> {
    match cell.read().await.map_err(|error| MeshError::Store(error.to_string()))? {
        Some((value, revision)) => Ok((State::open(&value, token)?, revision)),
        None => Err(MeshError::Absent(cell.place())),
    }
}

impl MeshProvider {
    /// A provider of this name. It does nothing until it is watched.
    #[must_use]
    pub fn new(name: Name, config: MeshConfig) -> Self {
        Self { name, config, known: None, current: None }
    }

    async fn run(&mut self, publisher: &dyn Publisher) -> Result<(), MeshError> {
        // Whatever becomes of the store, what is due is done with what it said last.
        self.renew(publisher)?;
        let token = read_token(&self.config.join)?;
        let mut cell = open_cell(&token.store).await?;
        loop {
            let (state, _) = read(&mut cell, &token).await?;
            self.learn(&token, state)?;
            if !self.renew(publisher)? {
                publisher.contact();
            }
            tokio::time::sleep(READ_INTERVAL).await;
            if read_token(&self.config.join)? != token {
                tracing::info!(provider = %self.name, "the join token is another one");
                return Ok(());
            }
        }
    }

    fn learn(&mut self, token: &Token, state: State) -> Result<(), MeshError> {
        if let Some(known) = &self.known
            && known.token == *token
            && known.state.version > state.version
        {
            return Err(MeshError::Older { found: state.version, known: known.state.version });
        }
        self.known = Some(Known { token: token.clone(), state });
        Ok(())
    }

    /// Publishes what is due: a certificate that is half of its life old, or of a CA that signs no more; CAs that came or went.
    fn renew(&mut self, publisher: &dyn Publisher) -> Result<bool, MeshError> {
        let Some(known) = &self.known else { return Ok(false) };
        let now = SystemTime::now();
        let trusted = known.state.trusted(now);
        let signer = known.state.signer(now).ok_or(state::StateError::NoSigner)?;
        let is_good = |current: &Current| current.signer == signer && now < current.renew_at;
        let issued = match &self.current {
            Some(current) if is_good(current) && current.trusted == trusted => return Ok(false),
            Some(current) if is_good(current) => None,
            _ => Some(known.state.issue(&self.identity()?, now)?),
        };
        let current = match (issued, self.current.take()) {
            (None, Some(current)) => Current { trusted, ..current },
            (Some(issued), _) => {
                tracing::info!(provider = %self.name, until = %humantime::format_rfc3339_seconds(issued.not_after), "has a new certificate");
                Current { issued, signer: signer.to_owned(), trusted, renew_at: now + renew_after(known.state.life()) }
            }
            (None, None) => return Ok(false),
        };
        publisher.publish(snapshot(&self.name, &current));
        self.current = Some(current);
        Ok(true)
    }

    fn identity(&self) -> Result<String, MeshError> {
        match &self.config.identity {
            Some(identity) => Ok(identity.clone()),
            None => host_identity(),
        }
    }
}

/// The name of this host as an identity.
///
/// # Errors
/// When the host has no name that could be one.
pub fn host_identity() -> Result<String, MeshError> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    check_identity(name).map(|()| name.to_owned()).map_err(|error| MeshError::Name(format!("the name of this host: {error}")))
}

/// Half of the life, and up to a tenth more, so that those who joined together do not renew together.
fn renew_after(life: Duration) -> Duration {
    let tenth = u64::try_from(life.as_millis() / 10).unwrap_or(u64::MAX);
    life / 2 + Duration::from_millis(random().checked_rem(tenth).unwrap_or_default())
}

fn snapshot(provider: &Name, current: &Current) -> Snapshot {
    let text = |text: &str| Pem::Text(text.to_owned());
    let Current { issued, trusted, .. } = current;
    let certificate = Certificate { cert: text(&issued.cert), key: text(&issued.key), ca: Some(text(trusted)), default: false };
    let mut config = RoutingConfig::default();
    config.certificates.insert(Name::literal(CERTIFICATE), certificate);
    Snapshot::of_program(config, provider, Instant::now())
}

impl Provider for MeshProvider {
    fn name(&self) -> &Name {
        &self.name
    }

    fn source(&self) -> Option<String> {
        let token = read_token(&self.config.join).ok()?;
        Some(format!("mesh {} as {}", token.trust_domain, self.identity().ok()?))
    }

    fn watch<'a>(&'a mut self, publisher: &'a dyn Publisher) -> Pin<Box<dyn Future<Output = Result<(), ProviderError>> + Send + 'a>> {
        Box::pin(async move {
            loop {
                if let Err(error) = self.run(publisher).await {
                    return Err(ProviderError { doing: "mesh".into(), cause: error.into() });
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::testing::Seen;

    fn provider() -> (MeshProvider, Token, State) {
        let token = Token::generate("etcd://e", "example.org").unwrap();
        let join = Join::from(token.text().to_string());
        let provider = MeshProvider::new(Name::literal("mesh"), MeshConfig { join, identity: Some("web".into()) });
        (provider, token, State::new("example.org", Duration::from_secs(3_600), SystemTime::now()).unwrap())
    }

    fn certificate(seen: &Seen) -> Certificate {
        seen.all().last().unwrap().certificates[CERTIFICATE].value.clone().unwrap()
    }

    #[test]
    fn what_was_put_back_is_refused_unless_the_token_is_another_one() {
        let (mut provider, token, state) = provider();
        let rotated = state.rotated(Duration::from_secs(60), SystemTime::now()).unwrap();
        provider.learn(&token, rotated.clone()).unwrap();
        let older = provider.learn(&token, state.clone()).unwrap_err();
        assert!(older.to_string().contains("version 0 of the mesh, and has held 1"), "{older}");
        provider.learn(&token, rotated).unwrap();
        provider.learn(&Token::generate("etcd://e", "example.org").unwrap(), state).unwrap();
    }

    #[test]
    fn a_certificate_is_made_when_it_is_due_and_not_before() {
        let (mut provider, token, state) = provider();
        let seen = Seen::default();
        assert!(!provider.renew(&seen).unwrap(), "nothing is known yet");
        provider.learn(&token, state.clone()).unwrap();
        assert!(provider.renew(&seen).unwrap() && !provider.renew(&seen).unwrap());
        let first = certificate(&seen);
        // A CA that is to come is trusted, by the certificate as it is.
        let rotated = state.rotated(Duration::from_secs(3_600), SystemTime::now()).unwrap();
        provider.learn(&token, rotated.clone()).unwrap();
        assert!(provider.renew(&seen).unwrap());
        let second = certificate(&seen);
        assert!(second.cert == first.cert && second.ca != first.ca);
        // One that is there at once signs at once; so does the clock.
        provider.learn(&token, rotated.rotated(Duration::ZERO, SystemTime::now()).unwrap()).unwrap();
        assert!(provider.renew(&seen).unwrap() && certificate(&seen).cert != first.cert);
        provider.current.as_mut().unwrap().renew_at = SystemTime::now();
        assert!(provider.renew(&seen).unwrap() && !provider.renew(&seen).unwrap());
        assert_eq!(seen.all().len(), 4);
    }
}
