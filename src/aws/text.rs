//! Texts of AWS, and of Vault about AWS, as they may be shown.

use std::borrow::Cow;

/// The longest text that is kept, in bytes: it goes into conditions and events.
const MESSAGE_BYTES: usize = 512;

/// One line, without what differs from try to try (request ids, times, local ports), without what
/// AWS echoes of a signed request, at most 512 bytes.
///
/// The text goes into a condition: if it changed with every try, every try would wake all watchers.
pub fn clean(text: &str) -> String {
    // AWS quotes the canonical request, session token included, when a signature does not match.
    let text = ["The Canonical String", "The String-to-Sign"]
        .iter()
        .fold(text, |text, mark| text.split(mark).next().unwrap_or_default());
    let mut text = Cow::Borrowed(text);
    for (open, close) in [("<RequestId>", "</RequestId>"), ("<RequestID>", "</RequestID>")] {
        while let Some(start) = text.find(open) {
            let rest = &text[start + open.len()..];
            let end =
                rest.find(close).map_or(text.len(), |at| start + open.len() + at + close.len());
            text = Cow::Owned(format!("{}{}", &text[..start], &text[end..]));
        }
    }
    let mut words: Vec<Cow<'_, str>> = Vec::new();
    let mut all = text.split_whitespace().peekable();
    while let Some(word) = all.next() {
        let lower = word.to_ascii_lowercase();
        if lower == "request" && all.peek().is_some_and(|next| next.eq_ignore_ascii_case("id:")) {
            all.next();
            all.next();
            if let Some(last) = words.last_mut() {
                *last = Cow::Owned(last.trim_end_matches(',').to_owned());
            }
            continue;
        }
        if lower == "requestid:" {
            all.next();
            continue;
        }
        words.push(steady(word));
    }
    let mut line = words.join(" ");
    if line.len() > MESSAGE_BYTES {
        let mut end = MESSAGE_BYTES - '…'.len_utf8();
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
        line.push('…');
    }
    line
}

/// A word without a time stamp of AWS and without the local end of a connection.
fn steady(word: &str) -> Cow<'_, str> {
    if let Some((_, remote)) = word.split_once("->") {
        return Cow::Borrowed(remote);
    }
    let core = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    let is_stamp = core.len() == 16
        && core.bytes().enumerate().all(|(at, byte)| match at {
            8 => byte == b'T',
            15 => byte == b'Z',
            _ => byte.is_ascii_digit(),
        });
    if is_stamp { Cow::Owned(word.replace(core, "<time>")) } else { Cow::Borrowed(word) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_the_same_on_each_try() {
        let text = "unable to resolve ARN \"arn:aws:iam::111122223333:role/nope\" to internal ID: \
                    NoSuchEntity: Role nope not found.\n\tstatus code: 404, request id: \
                    1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed";
        assert_eq!(
            clean(text),
            "unable to resolve ARN \"arn:aws:iam::111122223333:role/nope\" to internal ID: \
             NoSuchEntity: Role nope not found. status code: 404"
        );
        assert_eq!(
            clean("<Message>x</Message></Error><RequestId>abc</RequestId></ErrorResponse>"),
            "<Message>x</Message></Error></ErrorResponse>"
        );
        assert_eq!(
            clean("Signature expired: 20200101T000000Z is now earlier than 20261121T030000Z (x)"),
            "Signature expired: <time> is now earlier than <time> (x)"
        );
        assert_eq!(
            clean("read tcp 10.0.0.1:54321->1.2.3.4:443: connection reset by peer"),
            "read tcp 1.2.3.4:443: connection reset by peer"
        );
    }

    #[test]
    fn a_signed_request_that_aws_echoes_is_cut_off() {
        let text = "SignatureDoesNotMatch: it does not match. The Canonical String for this \
                    request should have been 'POST / x-amz-security-token:SECRET'";
        assert_eq!(clean(text), "SignatureDoesNotMatch: it does not match.");
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let text = clean(&"é".repeat(600));
        assert!(text.len() <= MESSAGE_BYTES);
        assert!(text.ends_with('…'));
    }
}
