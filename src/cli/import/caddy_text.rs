//! The text of a Caddyfile → its blocks. It knows no directive by name.

use super::Input;
use super::draft::At;

/// How deep blocks may be nested.
const DEPTH_MAX: usize = 16;

/// A line, with the block that it opens.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) at: At,
    pub(super) words: Vec<String>,
    pub(super) block: Vec<Line>,
}

impl Line {
    /// The first word.
    pub(super) fn name(&self) -> &str {
        self.word(0)
    }

    /// The word at `index`; empty if there is none.
    pub(super) fn word(&self, index: usize) -> &str {
        self.words.get(index).map(String::as_str).unwrap_or_default()
    }

    /// As it is written, without its block.
    pub(super) fn text(&self) -> String {
        self.words.join(" ")
    }
}

/// Reads a file. What cannot be read ends it, and is the second part: its place and why.
pub(super) fn parse(input: &Input) -> (Vec<Line>, Option<(At, String)>) {
    let mut lines = Vec::new();
    for (at, text) in input.lines() {
        match words(text) {
            Some(words) if words.is_empty() => {}
            Some(words) => lines.push((at, words)),
            None => return (Vec::new(), Some((at, "a quote is not closed, or a heredoc is used".into()))),
        }
    }
    let mut failure = None;
    let mut lines = lines.into_iter();
    let mut all = block(&mut lines, 0, &mut failure);
    // One site alone needs no braces: the first line is its address, the others what it says.
    if all.len() > 1
        && let Some((first, rest)) = all.split_first_mut()
        && first.block.is_empty()
        && !first.name().starts_with(['{', '('])
    {
        first.block = rest.to_vec();
        all.truncate(1);
    }
    (all, failure)
}

fn block(lines: &mut impl Iterator<Item = (At, Vec<String>)>, depth: usize, failure: &mut Option<(At, String)>) -> Vec<Line> {
    let mut all = Vec::new();
    while let Some((at, mut words)) = lines.next() {
        match words.last().map(String::as_str) {
            Some("{") if depth == DEPTH_MAX => {
                *failure = Some((at, "blocks are nested too deep".into()));
                return all;
            }
            Some("{") => {
                if words.len() > 1 {
                    words.pop();
                }
                let block = block(lines, depth + 1, failure);
                all.push(Line { at, words, block });
            }
            Some("}") if words.len() == 1 => {
                if depth == 0 {
                    *failure = Some((at, "a `}` is too much".into()));
                }
                return all;
            }
            _ => all.push(Line { at, words, block: Vec::new() }),
        }
        if failure.is_some() {
            return all;
        }
    }
    all
}

/// The words of a line. None: a quote is not closed.
fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '#' if word.is_none() => break,
            '"' | '`' if word.is_none() => {
                let mut text = String::new();
                loop {
                    match chars.next()? {
                        '\\' if c == '"' => text.push(chars.next()?),
                        end if end == c => break,
                        other => text.push(other),
                    }
                }
                words.push(text);
            }
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    (!words.iter().any(|word| word.starts_with("<<"))).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<Line>, Option<(At, String)>) {
        parse(&Input { name: "t".into(), text: text.into() })
    }

    #[test]
    fn blocks() {
        let (all, failure) = read("{\n  admin off\n}\na.test, b.test {\n  respond \"x \\\" y\" 200 # z\n  handle {\n    root *\n  }\n}\n");
        assert!(failure.is_none());
        assert_eq!((all[0].text().as_str(), all[1].text().as_str()), ("{", "a.test, b.test"));
        assert_eq!(all[1].block[0].words, ["respond", "x \" y", "200"]);
        assert_eq!((all[1].block[1].block[0].text().as_str(), all[1].block[1].block[0].at.line), ("root *", 7));
        let (alone, _) = read("a.test\n\nreverse_proxy :3000\nencode gzip\n");
        assert_eq!((alone.len(), alone[0].block.len()), (1, 2));
    }

    #[test]
    fn what_cannot_be_read_says_where() {
        assert_eq!(read("a {\n}\n}\n").1.unwrap().0.line, 3);
        assert_eq!(read("a \"b\n").1.unwrap().0.line, 1);
        assert!(read(&"a {\n".repeat(100)).1.unwrap().1.contains("too deep"));
    }
}
