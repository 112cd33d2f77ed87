//! Somebody else's text, shown where it can do no harm.
//!
//! A manifest under review is a stranger's until it was merged, and so is a policy in Vault. Its text
//! must not move the cursor, colour a refusal green, turn a line around (bidi), hide in characters
//! without width, close a code block, call people (`@team`) or bring HTML into a comment.
//!
//! There are two steps. [`line()`] makes text a single line of visible characters: everything that is not
//! printable is written as `\u{…}`. [`code`] and [`block`] put such text between backticks that it
//! cannot close; Markdown reads nothing there, neither links nor mentions nor HTML.

use std::fmt::Write as _;

/// The most characters of one value that are shown.
const LONGEST: usize = 2000;

/// The text as one line of printable characters.
pub fn line(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for (count, character) in text.chars().enumerate() {
        if count == LONGEST {
            let _ = write!(shown, "… ({} characters in all)", text.chars().count());
            break;
        }
        match character {
            // `escape_debug` marks these for Rust's sake; they are visible.
            '"' | '\'' | '\\' => shown.push(character),
            // Cc, Cf, Co, Cn, all white space but the plain one, and marks that pile up.
            other => shown.extend(other.escape_debug()),
        }
    }
    shown
}

/// Each line of the text by itself, without their ends.
pub fn lines(text: &str) -> Vec<String> {
    text.split('\n').map(line).collect()
}

/// An inline code span of Markdown that holds the text as [`line()`] has it.
pub fn code(text: &str) -> String {
    let text = line(text);
    if text.is_empty() {
        return "(empty)".to_owned();
    }
    let fence = "`".repeat(longest_run(&text) + 1);
    // A backtick at an end would lengthen the fence. One space at both ends is taken off again, also
    // where the text has them itself; all else is kept.
    let needs_space = text.starts_with(['`', ' ']) || text.ends_with(['`', ' ']);
    let space = if needs_space { " " } else { "" };
    format!("{fence}{space}{text}{space}{fence}")
}

/// A fenced code block of Markdown. `language` is ours.
pub fn block(language: &str, text: &str) -> String {
    let lines = lines(text.strip_suffix('\n').unwrap_or(text));
    let longest = lines.iter().map(|line| longest_run(line)).max().unwrap_or_default();
    let fence = "`".repeat(longest.max(2) + 1);
    let mut block = format!("{fence}{language}\n");
    for line in lines {
        let _ = writeln!(block, "{line}");
    }
    let _ = writeln!(block, "{fence}");
    block
}

/// How many backticks follow one another at most.
fn longest_run(text: &str) -> usize {
    text.split(|character| character != '`').map(str::len).max().unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is left of Markdown when code is taken out, as CommonMark reads it (6.1 and 4.5): a fence
    /// is closed by a line of at least as many backticks, a span by a run of exactly as many.
    pub(in crate::review) fn without_code(markdown: &str) -> String {
        let mut left = String::new();
        let mut fence = 0;
        for line in markdown.split('\n') {
            let indented = line.trim_start_matches(' ');
            let run = indented.len() - indented.trim_start_matches('`').len();
            let may_be_fence = line.len() - indented.len() <= 3 && run >= 3;
            if fence > 0 {
                if may_be_fence && run >= fence && indented[run..].trim().is_empty() {
                    fence = 0;
                    left.push_str("[block]\n");
                }
                continue;
            }
            if may_be_fence && !indented[run..].contains('`') {
                fence = run;
                continue;
            }
            left.push_str(&without_spans(line));
            left.push('\n');
        }
        assert_eq!(fence, 0, "a block is left open: {markdown}");
        left
    }

    fn without_spans(line: &str) -> String {
        let mut left = String::new();
        let mut rest = line;
        while let Some(start) = rest.find('`') {
            left.push_str(&rest[..start]);
            let run = rest[start..].len() - rest[start..].trim_start_matches('`').len();
            let inside = &rest[start + run..];
            match closing(inside, run) {
                Some(end) => {
                    left.push_str("[code]");
                    rest = &inside[end + run..];
                }
                None => panic!("a span is left open: {line}"),
            }
        }
        left + rest
    }

    fn closing(text: &str, run: usize) -> Option<usize> {
        let mut at = 0;
        while let Some(start) = text[at..].find('`') {
            let start = at + start;
            let length = text[start..].len() - text[start..].trim_start_matches('`').len();
            if length == run {
                return Some(start);
            }
            at = start + length;
        }
        None
    }

    /// Text that tries.
    pub(in crate::review) fn hostile() -> impl Strategy<Value = String> {
        let pieces = prop::sample::select(vec![
            "`",
            "```",
            "````",
            "~~~",
            "\n",
            "\r",
            "\r\n",
            "\u{1b}[2J",
            "\u{1b}]8;;http://x\u{7}",
            "\u{9b}31m",
            "\u{202e}",
            "\u{2066}",
            "\u{200b}",
            "\u{feff}",
            "\u{2028}",
            "\u{e0041}",
            "\u{85}",
            "\0",
            "\u{8}",
            "\u{7f}",
            "<img src=x onerror=y>",
            "</details>",
            "<!--",
            "@team",
            "#1",
            "[x](javascript:y)",
            "![x](http://y)",
            "| a |",
            "- [x] ",
            "# ",
            "> ",
            "    ",
            "\t",
            "&lt;",
            "\\",
            "\"",
            "'",
            "a",
            "é",
            "界",
            "$x$",
            "http://x.example",
            " ",
        ]);
        prop_oneof![
            prop::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.concat()),
            any::<String>(),
        ]
    }

    fn is_plain(character: char) -> bool {
        !character.is_control()
            && !matches!(character,
                '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}')
    }

    proptest! {
        #[test]
        fn a_line_is_one_line_of_printable_characters(text in hostile()) {
            let shown = line(&text);
            prop_assert!(shown.chars().all(is_plain), "{shown:?}");
        }

        #[test]
        fn nothing_leaves_a_span(text in hostile()) {
            let markdown = format!("before {} after", code(&text));
            let left = without_code(&markdown);
            let expected = if text.is_empty() { "before (empty) after\n" } else { "before [code] after\n" };
            prop_assert_eq!(left, expected);
        }

        #[test]
        fn nothing_leaves_a_block(text in hostile()) {
            let markdown = format!("before\n{}after", block("diff", &text));
            prop_assert_eq!(without_code(&markdown), "before\n[block]\nafter\n");
        }
    }

    #[test]
    fn what_is_plain_stays_as_it_is() {
        let plain = "path \"secret/data/*\" { capabilities = ['read'] } # über 界";
        assert_eq!(line(plain), plain);
        assert_eq!(code("a"), "`a`");
        assert_eq!(code("`a"), "`` `a ``");
    }

    #[test]
    fn what_is_not_is_spelled_out() {
        assert_eq!(line("a\u{1b}[31mb\u{202e}c\nd"), "a\\u{1b}[31mb\\u{202e}c\\nd");
    }

    #[test]
    fn what_is_endless_is_cut() {
        assert!(line(&"x".repeat(100_000)).chars().count() < LONGEST + 100);
    }
}
