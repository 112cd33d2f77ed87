//! How leniently Vault's answers are read: versions, plugins and OpenBao differ in which keys they
//! leave out, send as `null`, or send as text.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, de::Error as _};

/// A list: an array, `null` or a comma-separated string.
pub(crate) fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        List(Vec<String>),
        Text(String),
    }
    Ok(match Option::<Form>::deserialize(deserializer)? {
        None => Vec::new(),
        Some(Form::List(list)) => list,
        Some(Form::Text(text)) => text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(str::to_owned)
            .collect(),
    })
}

/// A value whose `null` means the default.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A duration in seconds: a number, a numeric string, a Go duration (`768h0m0s`), `null` as 0.
pub(crate) fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Number(i64),
        Text(String),
    }
    match Option::<Form>::deserialize(deserializer)? {
        None => Ok(0),
        Some(Form::Number(number)) => Ok(u64::try_from(number).unwrap_or(0)),
        Some(Form::Text(text)) => {
            let duration = go_duration(&text).ok_or_else(|| D::Error::custom("not a duration"))?;
            Ok(duration.as_secs())
        }
    }
}

/// A Go duration (`1h30m`, `1.5s`), or a plain number of seconds.
pub(crate) fn go_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    if text.is_empty() {
        return Some(Duration::ZERO);
    }
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += number
            * match &rest[..end] {
                "d" => 86_400.0,
                "h" => 3_600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[end..];
    }
    Duration::try_from_secs_f64(total).ok()
}

/// A map of texts; `null` as empty, and what is not a text is left out.
pub(crate) fn texts<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let map = Option::<BTreeMap<String, serde_json::Value>>::deserialize(deserializer)?;
    Ok(map
        .unwrap_or_default()
        .into_iter()
        .filter_map(|(key, value)| match value {
            serde_json::Value::String(text) => Some((key, text)),
            _ => None,
        })
        .collect())
}

/// A time in RFC 3339; `""` and `null` as `None`.
pub(crate) fn time<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Timestamp>, D::Error> {
    match Option::<String>::deserialize(deserializer)?.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| D::Error::custom("not a time")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Sample {
        #[serde(default, deserialize_with = "list")]
        list: Vec<String>,
        #[serde(default, deserialize_with = "seconds")]
        seconds: u64,
        #[serde(default, deserialize_with = "time")]
        time: Option<Timestamp>,
    }

    fn sample(text: &str) -> Sample {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_list_may_be_null_text_or_left_out() {
        assert_eq!(sample("{}").list, Vec::<String>::new());
        assert_eq!(sample(r#"{"list":null}"#).list, Vec::<String>::new());
        assert_eq!(sample(r#"{"list":["a","b,c"]}"#).list, ["a", "b,c"]);
        assert_eq!(sample(r#"{"list":"a, b"}"#).list, ["a", "b"]);
    }

    #[test]
    fn a_duration_may_be_a_number_or_a_text() {
        for (text, expected) in [
            ("3600", 3600),
            ("null", 0),
            ("\"3600\"", 3600),
            ("\"768h0m0s\"", 2_764_800),
            ("\"1m30.5s\"", 90),
            ("\"\"", 0),
            ("-1", 0),
        ] {
            assert_eq!(sample(&format!("{{\"seconds\":{text}}}")).seconds, expected, "{text}");
        }
        assert!(serde_json::from_str::<Sample>(r#"{"seconds":"soon"}"#).is_err());
    }

    #[test]
    fn an_empty_time_is_none() {
        assert_eq!(sample(r#"{"time":""}"#).time, None);
        let time = sample(r#"{"time":"2026-11-21T03:00:00.123456789Z"}"#).time.unwrap();
        assert_eq!(time.as_second(), 1_795_230_000);
    }
}
