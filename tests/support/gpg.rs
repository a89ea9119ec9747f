//! Keys made by gpg, each in a home of its own, and messages that it reads and writes.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A home of gpg with one key.
pub struct Gpg {
    home: TempDir,
}

/// What `%no-protection` or `Passphrase: …` makes of RSA with 2,048 bits.
pub const RSA: &str = "Key-Type: RSA\nKey-Length: 2048\nSubkey-Type: RSA\nSubkey-Length: 2048";
/// The same of what gpg makes by default since 2.3.
pub const CURVE: &str = "Key-Type: EDDSA\nKey-Curve: ed25519\nSubkey-Type: ECDH\nSubkey-Curve: cv25519";

impl Gpg {
    /// Makes a key of this kind, with a passphrase or without.
    pub fn with_key(kind: &str, passphrase: Option<&str>) -> Self {
        // The path of the agent's socket must be short.
        let gpg = Self { home: tempfile::Builder::new().prefix("gpg").tempdir_in("/tmp").expect("a directory") };
        let protection = passphrase.map_or("%no-protection".to_owned(), |passphrase| format!("Passphrase: {passphrase}"));
        let recipe = format!("{kind}\nName-Real: Test\nName-Email: test@example.test\nExpire-Date: 0\n{protection}\n%commit\n");
        gpg.run(&["--generate-key"], recipe.as_bytes());
        gpg
    }

    /// Runs gpg with these arguments and this input. Gives its output.
    pub fn run(&self, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let mut command = Command::new("gpg");
        command.arg("--homedir").arg(self.home.path()).args(["--batch", "--quiet", "--pinentry-mode", "loopback"]).args(arguments);
        let output = pipe(&mut command, input);
        output.unwrap_or_else(|error| panic!("gpg {arguments:?}: {error}"))
    }

    /// A file of the public key, armored.
    pub fn public(&self) -> PathBuf {
        self.file("public.asc", &self.run(&["--armor", "--export"], b""))
    }

    /// A file of the secret key, armored.
    pub fn secret(&self, passphrase: &str) -> PathBuf {
        self.file("secret.asc", &self.run(&["--passphrase", passphrase, "--armor", "--export-secret-keys"], b""))
    }

    /// Writes a file beside the key.
    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.home.path().join(name);
        std::fs::write(&path, content).expect("a file is written");
        path
    }

    /// What gpg encrypts for the key, as it is with these options.
    pub fn encrypt(&self, options: &[&str], plain: &[u8]) -> Vec<u8> {
        self.run(&[options, &["--trust-model", "always", "--recipient", "test@example.test", "--encrypt"]].concat(), plain)
    }

    /// What gpg decrypts.
    pub fn decrypt(&self, message: &[u8]) -> Vec<u8> {
        self.run(&["--decrypt"], message)
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        // The agent of this home alone.
        let _ = Command::new("gpgconf").arg("--homedir").arg(self.home.path()).args(["--kill", "gpg-agent"]).status();
    }
}

/// Runs a command on this input. Gives its output, or what it complained of.
pub fn pipe(command: &mut Command, input: &[u8]) -> Result<Vec<u8>, String> {
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|error| format!("{command:?}: {error}: `.ci/deps test` installs it"))?;
    let mut stdin = child.stdin.take().expect("it is piped");
    let output = std::thread::scope(|scope| {
        // A command that needs no input may not read it.
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output()
    });
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() { Ok(output.stdout) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}
