//! Where the lines of the access log go: a file that may be moved away under it, or standard output.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Sink;

/// How often it is looked whether the file is still where it was opened.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// How often it is said that a log cannot be written.
const TELL_EVERY: Duration = Duration::from_secs(10);

const BUFFER_BYTES: usize = 64 << 10;

/// A log that cannot be written must not stop traffic, nor fill another log: it is said now and then, and the next line is tried again.
pub(super) struct Output {
    to: BufWriter<Box<dyn Write + Send>>,
    sink: Sink,
    /// Device and number of the file.
    file: Option<(u64, u64)>,
    followed_at: Option<Instant>,
    /// Writes that failed since it was said.
    failures: u64,
    told_at: Option<Instant>,
}

impl Output {
    pub(super) fn open(sink: &Sink) -> io::Result<Self> {
        let (to, file) = match sink {
            Sink::Stdout => (buffered(io::stdout()), None),
            Sink::File(path) => {
                let (file, id) = open(path)?;
                (buffered(file), Some(id))
            }
        };
        Ok(Self { to, sink: sink.clone(), file, followed_at: None, failures: 0, told_at: None })
    }

    /// Opens the file anew that was moved away or deleted, as who rotates logs does. Nobody needs to tell us.
    pub(super) fn follow(&mut self) {
        let Sink::File(path) = &self.sink else { return };
        if self.followed_at.is_some_and(|at| at.elapsed() < FOLLOW_EVERY) {
            return;
        }
        self.followed_at = Some(Instant::now());
        if std::fs::metadata(path).is_ok_and(|found| Some(id(&found)) == self.file) {
            return;
        }
        match open(path) {
            Ok((file, id)) => (self.to, self.file) = (buffered(file), Some(id)),
            Err(error) => self.tell(Err(error)),
        }
    }

    pub(super) fn write(&mut self, line: &[u8]) {
        let written = self.to.write_all(line);
        self.tell(written);
    }

    pub(super) fn flush(&mut self) {
        let flushed = self.to.flush();
        self.tell(flushed);
    }

    fn tell(&mut self, done: io::Result<()>) {
        let Err(error) = done else { return };
        self.failures += 1;
        if self.told_at.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            tracing::error!("access log {}: {error} (failures since this was said last: {})", self.sink, self.failures);
            (self.failures, self.told_at) = (0, Some(Instant::now()));
        }
    }
}

fn buffered(to: impl Write + Send + 'static) -> BufWriter<Box<dyn Write + Send>> {
    BufWriter::with_capacity(BUFFER_BYTES, Box::new(to))
}

fn open(path: &Path) -> io::Result<(File, (u64, u64))> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let id = id(&file.metadata()?);
    Ok((file, id))
}

fn id(metadata: &std::fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_moved_away_is_opened_anew() {
        let directory = tempfile::tempdir().unwrap();
        let (path, old) = (directory.path().join("access.log"), directory.path().join("access.log.1"));
        let mut output = Output::open(&Sink::File(path.clone())).unwrap();
        let mut write = |line: &str| {
            output.followed_at = None;
            output.follow();
            output.write(line.as_bytes());
            output.flush();
        };
        write("one\n");
        write("two\n");
        std::fs::rename(&path, &old).unwrap();
        write("three\n");
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
        // Where there can be no file, the old one stays.
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        write("four\n");
        std::fs::remove_dir(&path).unwrap();
        write("five\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "five\n");
    }

    #[test]
    fn a_full_disk_is_told_of_now_and_then() {
        let mut output = Output::open(&Sink::File("/dev/full".into())).unwrap();
        for _ in 0..3 {
            output.write(b"line\n");
            output.flush();
        }
        assert_eq!(output.failures, 2, "the first was said");
    }
}
