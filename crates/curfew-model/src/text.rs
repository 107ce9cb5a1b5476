//! Text of others made harmless for terminals and logs: what would steer them is shown as an escape.

/// Whether a terminal takes this character for more than a sign: controls, marks of direction, invisible signs.
#[must_use]
pub fn steers(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{34f}'
                | '\u{61c}'
                | '\u{115f}'..='\u{1160}'
                | '\u{17b4}'..='\u{17b5}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{2800}'
                | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e0fff}'
        )
}

/// One line, whatever it was.
#[must_use]
pub fn clean(text: &str) -> String {
    cleaned(text, |_| false)
}

/// Several lines stay several lines.
#[must_use]
pub fn clean_lines(text: &str) -> String {
    cleaned(text, |character| character == '\n')
}

fn cleaned(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut clean = String::with_capacity(text.len());
    for character in text.chars() {
        if steers(character) && !keep(character) {
            clean.extend(character.escape_default());
        } else {
            clean.push(character);
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_shown_and_words_stay() {
        assert_eq!(clean("é 名 \u{1b}[31m\r\n"), "é 名 \\u{1b}[31m\\r\\n");
        assert_eq!(clean("a\u{202e}b\u{9b}"), "a\\u{202e}b\\u{9b}");
        assert_eq!(clean("a\u{3164}\u{fe0f}"), "a\\u{3164}\\u{fe0f}");
        assert_eq!(clean_lines("a\nb\u{7}"), "a\nb\\u{7}");
    }
}
