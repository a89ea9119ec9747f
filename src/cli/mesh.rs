//! `nuncio mesh`: a CA in a store, and the token that opens it.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nuncio::config::parse_duration;
use nuncio::discovery::keep::PrivateFile;
use nuncio::discovery::mesh::{self, CA_LIFE, LIFE_MIN, read_token};
use zeroize::Zeroizing;

use super::Failure;
use super::output::{complain, write_out};

/// Make, change and use a mesh: instances that know each other by mutual TLS
#[derive(clap::Args)]
#[command(after_help = "\
A mesh is a small CA that a store keeps, sealed. Whoever has its join token can be part of it: every instance that is started with \
--join makes a key of its own, gets a certificate for it, and renews it in time.

Examples:
  nuncio mesh init --store etcd://10.0.0.5:2379 --out mesh.token     once, anywhere
  nuncio forward 8443 127.0.0.1:80 --inbound --join mesh.token       beside the service
  nuncio ambassador apache-A 80 --join mesh.token                    beside its clients
  nuncio mesh rotate --join mesh.token                               another CA")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Init(Init),
    Rotate(Rotate),
    Issue(Issue),
}

/// Make a mesh, and print its join token
#[derive(clap::Args)]
#[command(after_help = "\
The token is all that an instance needs: it names the store, and opens what that holds. Keep it as you keep a private key. In the store \
nothing of the mesh can be read without it.

Examples:
  nuncio mesh init --store etcd://10.0.0.5:2379
  nuncio mesh init --store etcds://10.0.0.5/edge --trust-domain a.org --life 24h --out mesh.token")]
struct Init {
    /// Where it is kept, as every instance reaches it: etcd://[USER:PASSWORD@]HOST:PORT[,HOST:PORT][/PREFIX], etcds://… for TLS
    #[arg(long, value_name = "URL")]
    store: String,
    /// The first part of all identities: spiffe://TRUST-DOMAIN/NAME
    #[arg(long, value_name = "NAME", default_value = "nuncio", value_parser = parse_trust_domain)]
    trust_domain: String,
    /// How long certificates live; 30m or more. They are renewed at half of it
    #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = parse_life)]
    life: Duration,
    #[command(flatten)]
    out: Out,
}

#[derive(clap::Args)]
struct Out {
    /// Writes the token to this file, which its owner alone can read, and does not print it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Out {
    /// Makes sure that the token can be written, before anything depends on it.
    fn prepare(&self) -> Result<TokenOut, Failure> {
        self.out.as_ref().map(|path| prepare(path)).transpose().map(TokenOut)
    }
}

/// Where a token goes. None: to standard output.
struct TokenOut(Option<PrivateFile>);

impl TokenOut {
    /// Writes the token that nobody has yet and without which the mesh is lost: if need be, to standard error.
    fn tell(self, token: &mesh::Token) -> Result<(), Failure> {
        let line = Zeroizing::new(format!("{}\n", *token.text()));
        let written = match self.0 {
            Some(file) => file.finish(&[line.as_bytes()]),
            None => write_out(line.as_bytes()),
        };
        written.map_err(|error| {
            complain(&format!("The token cannot be written: {error}. Keep it from here, for it alone opens the mesh:\n{}", *line));
            Failure::Told
        })
    }
}

/// Give the mesh a new CA, so that what the one before has signed ends
#[derive(clap::Args)]
#[command(after_help = "\
For the first half of the overlap everyone trusts the new CA and still shows certificates of the one before; in the second half they \
show new ones; then the CA before is gone. No connection fails, and those that are open stay. With --overlap 0s it is gone at once: \
connections fail for the seconds in which not everyone has heard of it.

A stolen certificate ends with the overlap. Who has the token has part in the new CA too: --new-token makes another one, and prints it. \
Give it to everyone who is to stay, within half of the overlap; instances with --join FILE take it from there without a restart.

Examples:
  nuncio mesh rotate --join mesh.token
  nuncio mesh rotate --join mesh.token --overlap 1h --new-token --out mesh.token")]
struct Rotate {
    #[command(flatten)]
    member: Member,
    /// How long the CA before is still trusted
    #[arg(long, value_name = "DURATION", default_value = "1d", value_parser = parse_overlap)]
    overlap: Duration,
    /// Makes another join token, which alone opens the mesh from now on, and prints it
    #[arg(long)]
    new_token: bool,
    #[command(flatten)]
    out: Out,
}

/// Issue a certificate to a program that is no instance of Nuncio
#[derive(clap::Args)]
#[command(after_help = "\
Writes NAME.pem, NAME.key and ca.pem; slashes of the name become dashes. It is not renewed: issue another one in time, and after a \
rotation.

Examples:
  nuncio mesh issue web --join mesh.token --dir /etc/web
  openssl s_client -connect b:8443 -cert web.pem -key web.key -CAfile ca.pem -verify_return_error")]
struct Issue {
    /// Who it is for: spiffe://TRUST-DOMAIN/NAME
    #[arg(value_parser = super::settings::parse_identity)]
    name: String,
    #[command(flatten)]
    member: Member,
    /// Where the files are written
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

#[derive(clap::Args)]
struct Member {
    /// The join token, or a file that holds it
    #[arg(long, value_name = "TOKEN|FILE", env = "NUNCIO_JOIN", hide_env_values = true)]
    join: String,
}

impl Member {
    fn token(&self) -> Result<mesh::Token, Failure> {
        Ok(read_token(&self.join.clone().into())?)
    }
}

/// Does it.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let runtime = super::runtime()?;
    match &args.command {
        Command::Init(init) => {
            if let Some(path) = init.out.out.as_ref().filter(|path| path.symlink_metadata().is_ok()) {
                let path = path.display();
                return Err(Failure::Message(format!(
                    "--out: {path} is there already, perhaps with the token of another mesh: name another file"
                )));
            }
            let out = init.out.prepare()?;
            let token = runtime.block_on(mesh::create(&init.store, &init.trust_domain, init.life))?;
            complain("The mesh is made. Start instances with --join and its token, or with a file that holds it.\n");
            if ["127.0.0.1", "localhost", "[::1]"].iter().any(|here| init.store.contains(here)) {
                complain("warning: it names a store on this host by an address that other hosts cannot reach\n");
            }
            out.tell(&token)?;
        }
        Command::Rotate(rotate) => {
            let out = rotate.new_token.then(|| rotate.out.prepare()).transpose()?;
            let token = runtime.block_on(mesh::rotate(&rotate.member.token()?, rotate.overlap, rotate.new_token))?;
            let at = |after: Duration| humantime::format_rfc3339_seconds(SystemTime::now() + after);
            let (signs, ends) = (at(rotate.overlap / 2), at(rotate.overlap));
            complain(&format!("The mesh has a new CA, which signs from {signs} on. What those before signed ends at {ends}.\n"));
            if let Some(out) = out {
                out.tell(&token)?;
            }
        }
        Command::Issue(issue) => {
            let (issued, ca) = runtime.block_on(mesh::issue(&issue.member.token()?, &issue.name))?;
            let name = issue.name.replace('/', "-");
            write(&issue.dir.join(format!("{name}.pem")), &issued.cert)?;
            write(&issue.dir.join(format!("{name}.key")), &issued.key)?;
            write(&issue.dir.join("ca.pem"), &ca)?;
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    prepare(path)?.finish(&[text.as_bytes()]).map_err(|error| about(path, &error))
}

fn prepare(path: &Path) -> Result<PrivateFile, Failure> {
    std::path::absolute(path).and_then(|path| PrivateFile::create(&path)).map_err(|error| about(path, &error))
}

fn about(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Message(format!("{}: {error}", path.display()))
}

fn parse_trust_domain(text: &str) -> Result<String, String> {
    mesh::check_trust_domain(text).map(|()| text.to_owned())
}

fn parse_life(text: &str) -> Result<Duration, String> {
    parse_within(LIFE_MIN, text)
}

fn parse_overlap(text: &str) -> Result<Duration, String> {
    parse_within(Duration::ZERO, text)
}

/// From `least` to the life of a CA.
fn parse_within(least: Duration, text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if (least..=CA_LIFE).contains(&duration) {
        return Ok(duration);
    }
    Err(format!("it is from {} to {}", humantime::format_duration(least), humantime::format_duration(CA_LIFE)))
}
