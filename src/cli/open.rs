//! `nuncio open`: what is in a sealed value.

use std::path::PathBuf;

use nuncio::config::providers::KeyringConfig;
use nuncio::discovery::keyring;

use super::Failure;
use super::output::{read_bounded, say_bytes};

/// The largest sealed value, in bytes: what fits into a store, and some more for line breaks.
const SEALED_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Open a value that was sealed by `nuncio seal` or crypt
#[derive(clap::Args)]
#[command(after_help = "\
The value is printed as it was, without anything added. Exit code 1 when it is for other keys, or was changed.

Examples:
  gpg --export-secret-keys --armor edge@example.com > edge.key
  etcdctl get --print-value-only /nuncio/certificates/site | nuncio open --keyring edge.key
  nuncio open --keyring edge.key --passphrase-file edge.pass site.sealed")]
pub(super) struct Args {
    /// A file of OpenPGP secret keys, armored or binary
    #[arg(long, value_name = "FILE")]
    keyring: PathBuf,
    /// A file whose first line is the passphrase of the keys
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// What to open; `-` is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
}

/// Opens, and prints it.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let keyring = KeyringConfig { path: args.keyring.clone(), passphrase_file: args.passphrase_file.clone() };
    let keys = keyring::load(&keyring)?;
    let sealed = read_bounded(&args.file, SEALED_BYTES_MAX)?;
    let value = keys.open(&sealed).map_err(|error| format!("{}: {error}", args.file.display()))?;
    say_bytes(&value)
}
