//! A text under the reader's eyes: byte offsets to lines and columns, and offending bytes to snippets.

use std::cell::OnceCell;
use std::ops::Range;
use std::sync::Arc;

use super::problem::Snippet;
use super::secrets;

/// A text that is being decoded.
pub(super) struct Source<'a> {
    text: &'a str,
    /// The text as it may be shown. Made once, for the first problem, and shared by all.
    shown: OnceCell<Arc<str>>,
    /// Where each line starts. Made once, for the first position.
    line_starts: OnceCell<Vec<usize>>,
}

impl<'a> Source<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, shown: OnceCell::new(), line_starts: OnceCell::new() }
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    /// The offending bytes inside the text, secrets masked.
    pub(super) fn snippet(&self, span: Range<usize>, label: String) -> Snippet {
        let source = self.shown.get_or_init(|| secrets::mask(self.text).into());
        Snippet { source: source.clone(), span, label }
    }

    /// Line and column (in characters) of a byte, both from 1.
    pub(super) fn position(&self, offset: usize) -> (u32, u32) {
        let starts = self.line_starts.get_or_init(|| line_starts(self.text));
        let line = starts.partition_point(|start| *start <= offset);
        let start = line.checked_sub(1).and_then(|index| starts.get(index)).copied().unwrap_or_default();
        let before = self.text.get(start..offset).unwrap_or_default();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        (count(line), count(before.chars().count() + 1))
    }
}

fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0).chain(memchr::memchr_iter(b'\n', text.as_bytes()).map(|newline| newline + 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_from_one() {
        let source = Source::new("a\nüb\n");
        for (offset, expected) in [(0, (1, 1)), (1, (1, 2)), (2, (2, 1)), (4, (2, 2)), (5, (2, 3)), (6, (3, 1)), (99, (3, 1))] {
            assert_eq!(source.position(offset), expected, "{offset}");
        }
    }
}
