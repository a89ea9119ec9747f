//! The command line: one file per command. Only here are arguments and environment read, signals caught, and the logger installed.
//!
//! | file | concept |
//! |---|---|
//! | `run` | `nuncio run`: a server until a signal ends it |
//! | `forward` | `nuncio forward`, `nuncio ambassador`: one local port, and where it leads |
//! | `serve`, `provider` | what these have in common |
//! | `register` | `nuncio register`: addresses of containers into a store |
//! | `settings` | what the file says of the process, and the flags that override it |
//! | `check` | `nuncio check`: what is wrong with a file |
//! | `mesh` | `nuncio mesh`: a CA in a store, and the token that opens it |
//! | `demo`, `demo_endpoint` | `nuncio demo`: endpoints, a proxy in front of them, and what to try |
//! | `routes`, `upstreams`, `listeners`, `providers`, `problems` | tables from a running instance |
//! | `release` | `nuncio release`: lets go of what is held of an update |
//! | `health` | `nuncio health`: for the health check of a container |
//! | `seal`, `open` | `nuncio seal`, `nuncio open`: values that a store shall not show |
//! | `import` | `nuncio import`: the configuration of another proxy as ours |
//! | `client`, `whereabouts` | asks the admin API of a running instance, and finds it |
//! | `output` | text and tables on the terminal |
//! | `logging`, `signals`, `limits` | what a process has one of |

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod check;
mod client;
mod completions;
mod consul_env;
mod demo;
mod demo_endpoint;
mod forward;
mod health;
mod import;
mod limits;
mod listeners;
mod logging;
mod man;
mod mesh;
mod open;
mod output;
mod problems;
mod provider;
mod providers;
mod register;
mod release;
mod routes;
mod run;
mod seal;
mod serve;
mod settings;
mod signals;
mod systemd;
mod upstreams;
mod whereabouts;

/// Nuncio: an L4/L7 load-balancing proxy that learns where to send traffic by watching files and stores, and changes it under live
/// traffic.
#[derive(Parser)]
#[command(name = "nuncio", version, about, long_about = None, max_term_width = 110, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Start:
  nuncio demo                                               see it work, without any configuration
  nuncio run --listen :8080 --to 127.0.0.1:3000             one listener, one endpoint, no file
  nuncio run nuncio.toml                                    a file, live when edited
  nuncio run --provider etcd://10.0.0.5:2379/nuncio         everything from etcd
  nuncio ambassador apache-A 80                             a local port, to wherever apache-A lives now
  nuncio forward 10000 172.17.42.1:4001                     a local port, to one address
  nuncio register --host-ip 10.0.0.1                        containers of this host into etcd, for ambassadors to find

Exit codes: 0 all is well, 1 something is wrong, 2 the command line cannot be understood, 3 an import is incomplete.";

#[derive(Subcommand)]
enum Command {
    Run(Box<run::Args>),
    Forward(forward::ForwardArgs),
    Ambassador(forward::AmbassadorArgs),
    Register(Box<register::Args>),
    Mesh(mesh::Args),
    Check(check::Args),
    Demo(demo::Args),
    Routes(routes::Args),
    Upstreams(upstreams::Args),
    Listeners(listeners::Args),
    Providers(providers::Args),
    Problems(problems::Args),
    Release(release::Args),
    Health(health::Args),
    Seal(seal::Args),
    Open(open::Args),
    Import(import::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// Why a command did not do what it was asked for.
#[derive(Debug)]
enum Failure {
    /// Said on standard error.
    Message(String),
    /// It was said already.
    Told,
    /// The same: there is a result, and something is missing from it.
    Incomplete,
}

impl<E: std::fmt::Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Message(error.to_string())
    }
}

/// Runs the command that the arguments name.
pub(crate) fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(*args),
        Command::Forward(args) => forward::forward(&args),
        Command::Ambassador(args) => forward::ambassador(&args),
        Command::Register(args) => register::run(&args),
        Command::Mesh(args) => mesh::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Routes(args) => routes::run(&args),
        Command::Upstreams(args) => upstreams::run(&args),
        Command::Listeners(args) => listeners::run(&args),
        Command::Providers(args) => providers::run(&args),
        Command::Problems(args) => problems::run(&args),
        Command::Release(args) => release::run(&args),
        Command::Health(args) => health::run(&args),
        Command::Seal(args) => seal::run(&args),
        Command::Open(args) => open::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Told) => ExitCode::FAILURE,
        Err(Failure::Incomplete) => ExitCode::from(3),
        Err(Failure::Message(message)) => {
            output::complain(&format!("error: {message}\n"));
            ExitCode::FAILURE
        }
    }
}

/// Ends with clap's own words and exit code 2: the arguments make no sense together.
fn usage_error(message: impl std::fmt::Display) -> ! {
    use clap::CommandFactory;
    Cli::command().error(clap::error::ErrorKind::MissingRequiredArgument, message).exit()
}

/// A runtime for one command, on the main thread.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_arguments_are_consistent() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn the_commands_of_the_documentation_are_understood() {
        for page in [include_str!("../../docs/ambassador.md"), include_str!("../../docs/register.md"), include_str!("../../README.md")] {
            let commands: Vec<&str> = page.lines().filter(|line| line.starts_with("nuncio ")).collect();
            assert!(!commands.is_empty());
            for command in commands {
                let words = command.split(" #").next().unwrap_or_default().trim_end_matches('&').split_whitespace();
                assert!(super::Cli::try_parse_from(words).is_ok(), "{command}");
            }
        }
    }
}
