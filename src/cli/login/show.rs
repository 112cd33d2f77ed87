//! A login as it is printed: as `vault login` prints it, so that scripts written for that work. Pure.

use serde_json::{Value, json};

use super::{Format, nullable, quoted};
use crate::vault::login::Granted;

/// Two columns, as wide as the widest name.
pub(super) fn table(granted: &Granted) -> String {
    let login = &granted.login;
    let mut rows: Vec<(String, String)> = vec![
        ("token".to_owned(), login.token.expose().clone()),
        ("token_accessor".to_owned(), login.accessor.clone()),
        ("token_duration".to_owned(), duration(login.lease.as_secs())),
        ("token_renewable".to_owned(), login.renewable.to_string()),
        ("token_policies".to_owned(), quoted(&granted.token_policies)),
        ("identity_policies".to_owned(), quoted(&granted.identity_policies)),
        ("policies".to_owned(), quoted(&login.policies)),
    ];
    let of_method =
        login.metadata.iter().map(|(key, value)| (format!("token_meta_{key}"), value.clone()));
    rows.extend(of_method);
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(14) + 4;
    let mut lines = vec![format!("{:width$}Value", "Key"), format!("{:width$}-----", "---")];
    lines.extend(rows.into_iter().map(|(name, value)| format!("{name:width$}{value}")));
    lines.join("\n")
}

/// The whole answer, with the keys of Vault's API.
pub(super) fn json(granted: &Granted) -> String {
    let login = &granted.login;
    let value = json!({
        "request_id": granted.request_id,
        "lease_id": "",
        "lease_duration": 0,
        "renewable": false,
        "data": null,
        "warnings": nullable(&granted.warnings),
        "auth": {
            "client_token": login.token.expose(),
            "accessor": login.accessor,
            "policies": nullable(&login.policies),
            "token_policies": nullable(&granted.token_policies),
            "identity_policies": nullable(&granted.identity_policies),
            "metadata": login.metadata,
            "orphan": granted.orphan,
            "entity_id": granted.entity_id,
            "lease_duration": login.lease.as_secs(),
            "renewable": login.renewable,
            "mfa_requirement": null,
        },
    });
    // Texts, numbers and lists: it cannot fail.
    serde_json::to_string_pretty(&value).unwrap_or_default()
}

/// One field; with `json` as JSON. `None` if there is no such field.
pub(super) fn field(granted: &Granted, name: &str, format: Format) -> Option<String> {
    let login = &granted.login;
    let value = match name {
        "token" => json!(login.token.expose()),
        "token_accessor" => json!(login.accessor),
        "token_duration" => json!(login.lease.as_secs()),
        "token_renewable" => json!(login.renewable),
        "token_policies" => json!(granted.token_policies),
        "identity_policies" => nullable(&granted.identity_policies),
        "policies" => json!(login.policies),
        _ => json!(login.metadata.get(name.strip_prefix("token_meta_")?)?),
    };
    if format == Format::Json {
        return Some(value.to_string());
    }
    Some(match value {
        Value::String(text) => text,
        Value::Array(list) => {
            let words: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
            format!("[{}]", words.join(" "))
        }
        Value::Null => "[]".to_owned(),
        other => other.to_string(),
    })
}

/// Seconds as `vault` shows them: `10m`, `1h30m`, `45s`; 0 for ever.
fn duration(seconds: u64) -> String {
    if seconds == 0 {
        return "∞".to_owned();
    }
    let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let shown = parts.iter().filter(|(number, _)| *number > 0);
    shown.map(|(number, unit)| format!("{number}{unit}")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{redacted::Redacted, vault::login::Login};

    fn granted() -> Granted {
        Granted {
            login: Login {
                token: Redacted::new("hvs.x".to_owned()),
                accessor: "acc".to_owned(),
                lease: Duration::from_secs(600),
                renewable: true,
                policies: vec!["default".to_owned(), "web".to_owned()],
                metadata: [("account_id".to_owned(), "1".to_owned())].into(),
                token_type: "service".to_owned(),
                num_uses: 0,
            },
            token_policies: vec!["default".to_owned(), "web".to_owned()],
            identity_policies: Vec::new(),
            entity_id: "e".to_owned(),
            orphan: true,
            request_id: "r".to_owned(),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn the_table_is_that_of_vault() {
        assert_eq!(
            table(&granted()),
            "Key                      Value\n\
             ---                      -----\n\
             token                    hvs.x\n\
             token_accessor           acc\n\
             token_duration           10m\n\
             token_renewable          true\n\
             token_policies           [\"default\" \"web\"]\n\
             identity_policies        []\n\
             policies                 [\"default\" \"web\"]\n\
             token_meta_account_id    1"
        );
    }

    #[test]
    fn json_has_the_keys_of_the_api() {
        let json: Value = serde_json::from_str(&json(&granted())).unwrap();
        assert_eq!(json["auth"]["client_token"], "hvs.x");
        assert_eq!(json["auth"]["lease_duration"], 600);
        assert_eq!(json["auth"]["identity_policies"], Value::Null);
        assert_eq!(json["warnings"], Value::Null);
    }

    #[test]
    fn a_field_is_printed_bare() {
        let field = |name| field(&granted(), name, Format::Table);
        assert_eq!(field("token").as_deref(), Some("hvs.x"));
        assert_eq!(field("policies").as_deref(), Some("[default web]"));
        assert_eq!(field("token_duration").as_deref(), Some("600"));
        assert_eq!(field("token_meta_account_id").as_deref(), Some("1"));
        assert_eq!(field("identity_policies").as_deref(), Some("[]"));
        assert_eq!(field("data"), None);
        let listed = super::field(&granted(), "policies", Format::Json);
        assert_eq!(listed.as_deref(), Some(r#"["default","web"]"#));
    }

    #[test]
    fn a_duration_leaves_out_what_is_zero() {
        let shown = [2_764_800, 5400, 61, 45, 0].map(duration);
        assert_eq!(shown, ["768h", "1h30m", "1m1s", "45s", "∞"]);
    }
}
