//! The log: one line per event on standard error, in colour on a terminal.
//!
//! A thread of its own writes it. When whoever reads standard error is too slow, or stuck, lines are lost and counted; traffic does not
//! wait. The access log has a thread of its own too, and another queue: it takes what a request was, and makes lines of that over there,
//! while an event of `tracing` is text before it can leave the thread it happened on.

use std::io::{self, Write};
use std::sync::{Arc, OnceLock};

use nuncio::config::server::LogLevel;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// Lines that may wait to be written.
const QUEUE_LINES: usize = 8_192;

/// The log. What was said is written when it is dropped, or, if nobody reads it, lost after a second.
#[must_use]
pub(super) struct Log {
    _writer: WorkerGuard,
}

/// Installs the logger. What `RUST_LOG` says counts more than `level`.
pub(super) fn start(level: LogLevel) -> Log {
    let from_env = std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
    let filter = from_env.and_then(|filter| filter.parse::<EnvFilter>().ok()).unwrap_or_else(|| EnvFilter::new(directives(level)));
    start_filtered(filter)
}

/// Installs the logger with a filter of its own.
pub(super) fn start_filtered(filter: EnvFilter) -> Log {
    let (lines, writer) = queue(io::stderr(), QUEUE_LINES);
    let logger = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(lines)
        .with_ansi(super::output::is_stderr_colored())
        .with_target(false)
        .compact();
    // Fails only when there is a logger already.
    let _ = logger.try_init();
    Log { _writer: writer }
}

/// A writer that never waits, and the thread that writes to `output` what it was given.
fn queue(output: impl Write + Send + 'static, lines: usize) -> (NonBlocking, WorkerGuard) {
    let lost = Arc::new(OnceLock::new());
    let output = Telling { output, lost: lost.clone(), told: 0 };
    let (queue, writer) = NonBlockingBuilder::default().thread_name("log").buffered_lines_limit(lines).finish(output);
    // Set before there can be a line.
    let _ = lost.set(queue.error_counter());
    (queue, writer)
}

/// An output that says how many lines were lost before one that was not.
struct Telling<W> {
    output: W,
    lost: Arc<OnceLock<ErrorCounter>>,
    told: usize,
}

impl<W: Write> Write for Telling<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let lost = self.lost.get().map_or(0, ErrorCounter::dropped_lines);
        if lost > self.told {
            let told = format!("{} lines of the log are lost here: nobody read fast enough\n", lost - self.told);
            self.output.write_all(told.as_bytes())?;
            self.told = lost;
        }
        self.output.write_all(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// Ours at this level; of the libraries below us only what is wrong, unless everything is asked for.
fn directives(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "warn,nuncio=info",
        LogLevel::Debug => "info,nuncio=debug",
        LogLevel::Trace => "trace",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Says when a line has come, and goes on when it is told to.
    struct Stuck {
        come: Sender<()>,
        go_on: Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Stuck {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.come.send(()).unwrap();
            // It is dropped when the test lets all go on.
            let _ = self.go_on.recv();
            self.written.lock().unwrap().extend_from_slice(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_lost_rather_than_awaited_and_the_loss_is_told() {
        let (come, has_come) = channel();
        let (let_go, go_on) = channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let (mut lines, writer) = queue(Stuck { come, go_on, written: written.clone() }, 2);
        lines.write_all(b"0\n").unwrap();
        has_come.recv().unwrap();
        (1..=1000).for_each(|number| lines.write_all(format!("{number}\n").as_bytes()).unwrap());
        drop(let_go);
        drop(writer);
        let written = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert_eq!(written, "0\n998 lines of the log are lost here: nobody read fast enough\n1\n2\n");
    }
}
