//! `nuncio seal`: a value that only who has the secret key can read.

use std::path::PathBuf;
use std::time::SystemTime;

use nuncio::discovery::kv::sealed::{KEYRING_BYTES_MAX, OPENED_BYTES_MAX, Recipients};

use super::Failure;
use super::output::{read_bounded, say};

/// Seal a value for a key/value store, so that the store does not show what it holds
#[derive(clap::Args)]
#[command(after_help = "\
The value is compressed, encrypted for every key of the file, and printed as one line of base64: what crypt \
(xordataexchange) writes and reads. Whoever has the secret key of any of them can open it: a provider with \
`keyring`, `nuncio open`, and for RSA keys crypt and confd.

Examples:
  gpg --export --armor edge@example.com > edge.asc
  nuncio seal --key edge.asc site.json | etcdctl put /nuncio/certificates/site
  printf 10.0.0.1:8080 | nuncio seal --key edge.asc")]
pub(super) struct Args {
    /// A file of OpenPGP public keys, armored or binary
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// What to seal; `-` is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
}

/// Seals, and prints it.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let ring = read_bounded(&args.key, KEYRING_BYTES_MAX)?;
    let recipients = Recipients::parse(&ring, SystemTime::now()).map_err(|error| format!("{}: {error}", args.key.display()))?;
    let value = read_bounded(&args.file, OPENED_BYTES_MAX)?;
    say(&format!("{}\n", recipients.seal(&value)?))
}
