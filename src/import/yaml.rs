//! The printed stream: manifests, and comments that nothing in Vault can break out of.

use serde_json::Value;

/// A line of a comment, or several. Text from Vault is anybody's: what could end the line is written as
/// an escape.
pub fn comment(text: &str) -> String {
    let mut line = String::from("# ");
    for character in text.chars() {
        match character {
            '"' | '\'' | '\\' => line.push(character),
            // Control characters, and white space of other kinds than the plain one.
            other => line.extend(other.escape_debug()),
        }
    }
    line.push('\n');
    line
}

/// One document, with the line that separates it from the one before.
///
/// # Errors
/// Only if the value cannot be YAML, which JSON always can.
pub fn document(value: &Value) -> Result<String, serde_saphyr::ser::Error> {
    Ok(format!("---\n{}", serde_saphyr::to_string(value)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_text_breaks_out_of_a_comment(text in any::<String>()) {
            let comment = comment(&text);
            let ends = |c: char| matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{c}' | '\u{b}');
            prop_assert_eq!(comment.find(ends), Some(comment.len() - 1));
        }

        #[test]
        fn no_text_changes_what_a_document_says(text in any::<String>()) {
            let value = serde_json::json!({"kind": "x", "spec": {"iamRole": text, "a": ["1", text]}});
            let back: Vec<Value> =
                serde_saphyr::from_multiple(&document(&value).unwrap()).unwrap();
            prop_assert_eq!(back, vec![value]);
        }
    }
}
