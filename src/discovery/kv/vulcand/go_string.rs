//! String literals of Go: `"…"` with escapes, and between backquotes as it is.

/// Reads the literal that `text` starts with: its value, and what follows it. None: it is none, or not a valid one.
pub(super) fn take(text: &str) -> Option<(String, &str)> {
    if let Some(rest) = text.strip_prefix('`') {
        let (raw, rest) = rest.split_once('`')?;
        return Some((raw.replace('\r', ""), rest));
    }
    let mut rest = text.strip_prefix('"')?;
    // Escapes such as `\xc3` are bytes, which make characters together.
    let mut value = Vec::new();
    loop {
        let character = rest.chars().next()?;
        rest = rest.get(character.len_utf8()..)?;
        match character {
            '"' => return Some((String::from_utf8(value).ok()?, rest)),
            '\n' => return None,
            '\\' => rest = escape(rest, &mut value)?,
            _ => value.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// Reads what follows a `\`, and hands back what follows that.
fn escape<'a>(text: &'a str, value: &mut Vec<u8>) -> Option<&'a str> {
    let letter = text.chars().next()?;
    let behind = text.get(letter.len_utf8()..)?;
    let simple = match letter {
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 11,
        '\\' => b'\\',
        '"' => b'"',
        '0'..='7' => {
            let (code, rest) = digits(text, 3, 8)?;
            value.push(u8::try_from(code).ok()?);
            return Some(rest);
        }
        'x' => {
            let (code, rest) = digits(behind, 2, 16)?;
            value.push(u8::try_from(code).ok()?);
            return Some(rest);
        }
        'u' | 'U' => {
            let (code, rest) = digits(behind, if letter == 'u' { 4 } else { 8 }, 16)?;
            value.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut [0; 4]).as_bytes());
            return Some(rest);
        }
        _ => return None,
    };
    value.push(simple);
    Some(behind)
}

fn digits(text: &str, count: usize, radix: u32) -> Option<(u32, &str)> {
    let (digits, rest) = text.split_at_checked(count)?;
    let is_number = digits.chars().all(|digit| digit.is_digit(radix));
    is_number.then(|| u32::from_str_radix(digits, radix).ok()).flatten().map(|code| (code, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_of_go() {
        let check = |text: &str, value: Option<&str>| assert_eq!(take(text).map(|(value, _)| value).as_deref(), value, "{text}");
        check(r#""a\"b\\.c" rest"#, Some(r#"a"b\.c"#));
        check(r"`a\.b`", Some(r"a\.b"));
        check(r#""\x41\101\u00e4\xc3\xa4""#, Some("AAää"));
        for invalid in
            [r#""\.""#, r#""a"#, "`a", "a", "'a'", "\"a\nb\"", r#""\xff""#, r#""\x4""#, r#""\'""#, r#""\400""#, r#""\ud800""#, r#""\+1""#]
        {
            check(invalid, None);
        }
        assert_eq!(take(r#""a") && x"#).unwrap().1, ") && x");
    }
}
