//! Text and tables on the terminal. Where nobody looks (a pipe, a file) there is no colour, no frame and no line that is cut.

use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Row, Table, presets};

use super::Failure;

/// Writes to standard output. When nobody reads any more there is nobody to tell.
///
/// # Errors
/// It cannot be written to: a disk is full.
pub(super) fn say(text: &str) -> Result<(), Failure> {
    say_bytes(text.as_bytes())
}

/// The same for what may be no text.
pub(super) fn say_bytes(content: &[u8]) -> Result<(), Failure> {
    match write_out(content) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| Failure::Message(format!("standard output: {error}"))),
    }
}

/// Writes all of it to standard output.
pub(super) fn write_out(content: &[u8]) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(content).and_then(|()| output.flush())
}

/// Writes to standard error.
pub(super) fn complain(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Writes a value to standard output as JSON.
pub(super) fn say_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    say(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Reads a file, or standard input for `-`, of at most `bytes_max` bytes.
///
/// # Errors
/// A sentence that names the file.
pub(super) fn read_bounded(path: &Path, bytes_max: usize) -> Result<Vec<u8>, String> {
    let mut content = Vec::new();
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    let limit = bytes_max as u64 + 1;
    if path.as_os_str() == "-" {
        io::stdin().lock().take(limit).read_to_end(&mut content).map_err(failed)?;
    } else {
        std::fs::File::open(path).map_err(failed)?.take(limit).read_to_end(&mut content).map_err(failed)?;
    }
    if content.len() > bytes_max { Err(format!("{}: it has more than {bytes_max} bytes", path.display())) } else { Ok(content) }
}

/// Whether colours are wanted on standard output. `NO_COLOR` is the convention of <https://no-color.org>.
pub(super) fn is_colored() -> bool {
    io::stdout().is_terminal() && has_colors()
}

/// The same for standard error.
pub(super) fn is_stderr_colored() -> bool {
    io::stderr().is_terminal() && has_colors()
}

fn has_colors() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// How the text of a cell is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Bad,
    Faint,
}

/// Writes a table with a header to standard output.
pub(super) fn say_table(header: &[&str], rows: impl IntoIterator<Item = Vec<(String, Tone)>>) -> Result<(), Failure> {
    let mut table = Table::new();
    let is_terminal = io::stdout().is_terminal();
    let arrangement = if is_terminal { ContentArrangement::Dynamic } else { ContentArrangement::Disabled };
    table.load_style(presets::NOTHING).set_content_arrangement(arrangement);
    if !is_colored() {
        table.force_no_tty();
    }
    table.set_header(Row::from(header.iter().map(|title| Cell::new(title.to_uppercase()).add_attribute(Attribute::Bold))));
    for row in rows {
        table.add_row(Row::from(row.into_iter().map(|(text, tone)| cell(&text, tone))));
    }
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 2));
    });
    let lines: Vec<String> = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    say(&lines.concat())
}

fn cell(text: &str, tone: Tone) -> Cell {
    // What a store says may hold anything; what the terminal would obey is left out.
    let text: String = text.chars().filter(|c| !c.is_control() || *c == '\n').collect();
    let cell = Cell::new(if text.is_empty() { "-".to_string() } else { text });
    match tone {
        Tone::Plain => cell,
        Tone::Good => cell.fg(Color::Green),
        Tone::Bad => cell.fg(Color::Red),
        Tone::Faint => cell.add_attribute(Attribute::Dim),
    }
}

/// A plain cell.
pub(super) fn plain(text: impl ToString) -> (String, Tone) {
    (text.to_string(), Tone::Plain)
}

/// A cell of less interest.
pub(super) fn faint(text: impl ToString) -> (String, Tone) {
    (text.to_string(), Tone::Faint)
}

/// `3 routes`, `1 route`.
pub(super) fn count(number: usize, singular: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    let number = if number == 0 { "no".to_string() } else { number.to_string() };
    format!("{number} {singular}{plural}")
}

/// How long ago, in the largest unit that says enough: `350ms`, `12s`, `4m`, `3h`, `2d`.
pub(super) fn ago(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{:.0}ms ago", s * 1e3),
        s if s < 60.0 => format!("{s:.0}s ago"),
        s if s < 3_600.0 => format!("{:.0}m ago", s / 60.0),
        s if s < 86_400.0 => format!("{:.0}h ago", s / 3_600.0),
        s => format!("{:.0}d ago", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_said_as_people_do() {
        assert_eq!([count(0, "problem"), count(1, "route"), count(2, "route")], ["no problems", "1 route", "2 routes"]);
        assert_eq!(
            [ago(0.35), ago(12.4), ago(240.0), ago(10_800.0), ago(172_800.0)],
            ["350ms ago", "12s ago", "4m ago", "3h ago", "2d ago"]
        );
    }
}
