//! Texts of AWS, and of Vault about AWS, as they may be shown.

use std::borrow::Cow;

/// The longest text that is kept, in bytes: it goes into conditions and events.
const MESSAGE_BYTES: usize = 512;
/// The longest word: an ARN is shorter, and a token of any kind is longer.
const WORD_BYTES: usize = 300;
/// Behind it Vault quotes an answer.
const QUOTES: &str = "from STS:";
/// What is said instead of an answer that is none of STS.
pub(crate) const NOT_OF_STS: &str = "what answered is not STS";

/// One line, without what differs from try to try (request ids, times, local ports), without what
/// AWS echoes of a signed request, at most 512 bytes.
///
/// The text goes into a condition: if it changed with every try, every try would wake all watchers.
pub fn clean(text: &str) -> String {
    // AWS quotes the canonical request, session token included, when a signature does not match.
    let text = ["The Canonical String", "The String-to-Sign"]
        .iter()
        .fold(text, |text, mark| text.split(mark).next().unwrap_or_default());
    let mut text = without_xml(text);
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

/// The text of the first element of this name; the shape has no attributes in those that are read.
pub(super) fn element<'x>(xml: &'x str, name: &str) -> Option<&'x str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(text.trim())
}

/// Code and message instead of the whole answer of STS, which Vault quotes as it came.
fn without_xml(text: &str) -> Cow<'_, str> {
    const END: &str = "</ErrorResponse>";
    let Some((before, xml)) = text.split_once("<ErrorResponse") else { return without_quote(text) };
    let (xml, after) = xml.split_once(END).unwrap_or((xml, ""));
    let Some(code) = element(xml, "Code") else { return without_quote(text) };
    // It has no end where the rest was cut off.
    let message = element(xml, "Message")
        .or_else(|| Some(xml.split_once("<Message>")?.1.trim()))
        .filter(|message| !message.is_empty());
    let colon = if message.is_some() { ": " } else { "" };
    let message = unescaped(message.unwrap_or_default());
    Cow::Owned(format!("{before}{code}{colon}{message}{after}"))
}

/// Vault quotes whatever answered in STS's place. That may be anything, the request with its session
/// token among it.
fn without_quote(text: &str) -> Cow<'_, str> {
    match text.split_once(QUOTES) {
        Some((before, _)) => Cow::Owned(format!("{before}{QUOTES} {NOT_OF_STS}")),
        None => Cow::Borrowed(text),
    }
}

/// The characters that XML writes as entities.
fn unescaped(text: &str) -> String {
    // The ampersand last: what it makes is no entity.
    [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&apos;", "'"),
        ("&#39;", "'"),
        ("&amp;", "&"),
    ]
    .iter()
    .fold(text.to_owned(), |text, (entity, character)| text.replace(entity, character))
}

/// A word without a time stamp of AWS and without the local end of a connection; one that could be a
/// token is none.
fn steady(word: &str) -> Cow<'_, str> {
    if word.len() > WORD_BYTES {
        return Cow::Borrowed("…");
    }
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
    fn an_answer_of_sts_is_told_by_its_code_and_message() {
        let quoted = |message: &str| {
            format!(
                "error making upstream request: received error code 403 from STS: <ErrorResponse \
                 xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n  <Error>\n    \
                 <Type>Sender</Type>\n    <Code>InvalidClientTokenId</Code>\n    \
                 <Message>{message}</Message>\n  </Error>\n  <RequestId>0-1</RequestId>\n\
                 </ErrorResponse>\n"
            )
        };
        let told = "error making upstream request: received error code 403 from STS: \
                    InvalidClientTokenId";
        let invalid = "The security token &quot;x&quot; &amp;lt; is invalid.";
        let shown = "The security token \"x\" &lt; is invalid.";
        assert_eq!(clean(&quoted(invalid)), format!("{told}: {shown}"));
        assert_eq!(clean(&quoted("")), told);
        // What AWS echoes is cut off, and with it the end of the message.
        let echo = "It does not match.\n\nThe Canonical String for this request should have been";
        assert_eq!(clean(&quoted(echo)), format!("{told}: It does not match."));
        // Something else that is no quotation stays as it is.
        assert_eq!(clean("<ErrorResponse>no</ErrorResponse>"), "<ErrorResponse>no</ErrorResponse>");
    }

    #[test]
    fn what_is_quoted_and_is_no_answer_of_sts_is_not_repeated() {
        let said = "received error code 403 from STS: what answered is not STS";
        for answer in [
            "",
            "<html>x-amz-security-token: SECRET</html>",
            "<ErrorResponse>SECRET</ErrorResponse>",
            "<Request>SECRET <ErrorResponse></ErrorResponse></Request>",
        ] {
            assert_eq!(clean(&format!("received error code 403 from STS: {answer}")), said);
        }
    }

    #[test]
    fn a_word_that_could_be_a_token_is_left_out() {
        let token = "IQoJb3JpZ2luX2Vj".repeat(40);
        assert_eq!(clean(&format!("no: {token} is invalid")), "no: … is invalid");
    }

    #[test]
    fn a_signed_request_that_aws_echoes_is_cut_off() {
        let text = "SignatureDoesNotMatch: it does not match. The Canonical String for this \
                    request should have been 'POST / x-amz-security-token:SECRET'";
        assert_eq!(clean(text), "SignatureDoesNotMatch: it does not match.");
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let text = clean(&"éé ".repeat(200));
        assert!(text.len() <= MESSAGE_BYTES);
        assert!(text.ends_with('…'));
    }
}
