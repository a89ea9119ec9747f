//! The text of an nginx configuration → its directives. It knows no directive by name.

use super::Input;
use super::draft::At;

/// How deep blocks may be nested.
const DEPTH_MAX: usize = 16;

/// `name argument …;`, or with a block.
#[derive(Debug, Clone)]
pub(super) struct Directive {
    pub(super) at: At,
    pub(super) name: String,
    pub(super) arguments: Vec<String>,
    pub(super) block: Vec<Directive>,
}

impl Directive {
    /// The argument at `index`; empty if there is none.
    pub(super) fn argument(&self, index: usize) -> &str {
        self.arguments.get(index).map(String::as_str).unwrap_or_default()
    }

    /// As it is written, without its block.
    pub(super) fn text(&self) -> String {
        [std::slice::from_ref(&self.name), &self.arguments].concat().join(" ")
    }

    /// The directives of this name in the block.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Directive> {
        self.block.iter().filter(move |directive| directive.name == name)
    }

    /// The last directive of this name in the block.
    pub(super) fn last<'a>(&'a self, name: &'a str) -> Option<&'a Directive> {
        self.all(name).last()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Open,
    Close,
    End,
}

/// Reads a file. What cannot be read ends it, and is the second part: its place and why.
pub(super) fn parse(input: &Input) -> (Vec<Directive>, Option<(At, String)>) {
    let mut tokens = match tokens(&input.text) {
        Ok(tokens) => tokens.into_iter(),
        Err((line, why)) => return (Vec::new(), Some((input.at(line), why))),
    };
    let mut failure = None;
    let directives = block(input, &mut tokens, 0, &mut failure);
    (directives, failure)
}

fn block(
    input: &Input,
    tokens: &mut impl Iterator<Item = (usize, Token)>,
    depth: usize,
    failure: &mut Option<(At, String)>,
) -> Vec<Directive> {
    let mut directives = Vec::new();
    let mut words: Vec<(usize, String)> = Vec::new();
    while let Some((line, token)) = tokens.next() {
        let nested = match token {
            Token::Word(word) => {
                words.push((line, word));
                continue;
            }
            Token::Close if depth > 0 && words.is_empty() => return directives,
            Token::Close => {
                *failure = Some((input.at(line), "a `}` is too much".into()));
                return directives;
            }
            Token::Open if depth == DEPTH_MAX => {
                *failure = Some((input.at(line), "blocks are nested too deep".into()));
                return directives;
            }
            Token::Open => block(input, tokens, depth + 1, failure),
            Token::End => Vec::new(),
        };
        let mut words = std::mem::take(&mut words).into_iter();
        if let Some((line, name)) = words.next() {
            let arguments = words.map(|(_, word)| word).collect();
            directives.push(Directive { at: input.at(line), name, arguments, block: nested });
        }
        if failure.is_some() {
            return directives;
        }
    }
    if let Some((line, word)) = words.first() {
        *failure = Some((input.at(*line), format!("`{word}` does not end with `;`")));
    } else if depth > 0 {
        *failure = Some((input.at(input.text.lines().count()), "a `{` is not closed".into()));
    }
    directives
}

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, (usize, String)> {
    let mut tokens = Vec::new();
    let mut word: Option<String> = None;
    let mut line = 1;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let plain = match c {
            '"' | '\'' if word.is_none() => {
                let start = line;
                tokens.push((start, Token::Word(quoted(&mut chars, c, &mut line).ok_or((start, "a quote is not closed".to_owned()))?)));
                continue;
            }
            '\\' => {
                let word = word.get_or_insert_default();
                word.push(c);
                // Escapes are those of regular expressions: they stay.
                word.extend(chars.next());
                continue;
            }
            '$' if chars.peek() == Some(&'{') => {
                let word = word.get_or_insert_default();
                word.push(c);
                for c in chars.by_ref() {
                    word.push(c);
                    if c == '}' {
                        break;
                    }
                }
                continue;
            }
            '#' if word.is_none() => {
                while chars.peek().is_some_and(|c| *c != '\n') {
                    chars.next();
                }
                continue;
            }
            ';' => Some(Token::End),
            '{' => Some(Token::Open),
            '}' => Some(Token::Close),
            c if c.is_ascii_whitespace() => None,
            c => {
                word.get_or_insert_default().push(c);
                continue;
            }
        };
        tokens.extend(word.take().map(|word| (line, Token::Word(word))));
        tokens.extend(plain.map(|token| (line, token)));
        line += usize::from(c == '\n');
    }
    tokens.extend(word.map(|word| (line, Token::Word(word))));
    Ok(tokens)
}

fn quoted(chars: &mut impl Iterator<Item = char>, quote: char, line: &mut usize) -> Option<String> {
    let mut word = String::new();
    loop {
        match chars.next()? {
            '\\' => match chars.next()? {
                c if c == quote || c == '\\' => word.push(c),
                c => word.extend(['\\', c]),
            },
            c if c == quote => return Some(word),
            c => {
                *line += usize::from(c == '\n');
                word.push(c);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<Directive>, Option<(At, String)>) {
        parse(&Input { name: "t".into(), text: text.into() })
    }

    #[test]
    fn directives_with_and_without_blocks() {
        let (all, failure) = read("a b 'c d' \"e\\\"f\"; # x\nserver {\n  location ~ ^/v\\d+/ { p ${x}y; }\n}\n");
        assert!(failure.is_none());
        assert_eq!(all[0].arguments, ["b", "c d", "e\"f"]);
        let location = &all[1].block[0];
        assert_eq!((location.text().as_str(), location.at.line), ("location ~ ^/v\\d+/", 3));
        assert_eq!(location.block[0].argument(0), "${x}y");
    }

    #[test]
    fn what_cannot_be_read_says_where() {
        for (text, line, why) in
            [("a {\n b;\n", 2, "not closed"), ("a;\n}", 2, "too much"), ("a;\nb", 2, "does not end"), ("a 'b", 1, "quote")]
        {
            let (at, said) = read(text).1.unwrap();
            assert!(at.line == line && said.contains(why), "{text}: {at} {said}");
        }
        assert!(read(&"a {".repeat(100)).1.unwrap().1.contains("too deep"));
    }
}
