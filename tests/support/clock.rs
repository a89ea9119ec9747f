//! A wall clock that a process has for itself, so that a test can make it jump.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The clock. Programs that ask the kernel instead of libc, such as those in Go, do not see it.
#[derive(Debug)]
pub struct OwnClock {
    library: PathBuf,
    file: PathBuf,
}

impl OwnClock {
    /// Makes one, with its files in `directory`.
    pub fn new(directory: &Path) -> Self {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/clock/clock.c");
        let library = directory.join("clock.so");
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl").status();
        assert!(compiled.expect("cc runs; `make test` installs it (on Debian: apt-get install gcc)").success(), "{source} compiles");
        let file = directory.join("clock");
        std::fs::write(&file, 0_i64.to_ne_bytes()).expect("our own directory");
        Self { library, file }
    }

    /// What the process needs in its environment.
    pub fn environment(&self) -> [(&'static str, &Path); 2] {
        [("LD_PRELOAD", &self.library), ("CLOCK_FILE", &self.file)]
    }

    /// Makes it so many seconds ahead of ours, or behind. The monotonic clock stays.
    pub fn move_to(&self, seconds: i64) {
        // In place: it is mapped into the process's memory.
        let file = File::options().write(true).open(&self.file).expect("our own directory");
        file.write_all_at(&seconds.to_ne_bytes(), 0).expect("our own directory");
    }
}
