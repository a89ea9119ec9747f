//! The binary once more, as a target of tests: `make image PROFILE=dev` links it statically from what tests have compiled already. The
//! binary itself would not do: built alone, its dependencies have other features than built for tests, and it is what other tests run.

#![allow(dead_code, unused_imports, reason = "unit tests are compiled along, and not run")]

#[path = "../../src/cli/mod.rs"]
mod cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
