//! The `nuncio` binary: hands over to `cli`.

mod cli;

/// About 1 µs less a request than glibc's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
