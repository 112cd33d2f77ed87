//! What `doctor` found: links of a chain in their order, each good, doubtful, broken or not looked at,
//! and the two forms in which that is told. Pure; the looking is the command's.
//!
//! The chain is read from its start: what lies behind a broken link is not worth a word, so the first
//! broken link is said last, where the eye stops, with what cures it.

use std::fmt::Write as _;

use serde::Serialize;

pub mod cluster;
pub mod cure;
pub mod walk;

/// How a link stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// As it should be.
    Good,
    /// It holds, but somebody should look.
    Doubt,
    /// It does not hold.
    Broken,
    /// Not looked at: a link before it is broken.
    Skipped,
}

/// One link.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Finding {
    /// Which: `AWS identity`, `Clock`, ….
    pub step: &'static str,
    /// How it stands.
    pub mark: Mark,
    /// A CamelCase word for what is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What was seen, on one line.
    pub found: String,
    /// What to do, if it is broken or doubtful.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

impl Finding {
    /// A link as it should be.
    pub fn good(step: &'static str, found: impl Into<String>) -> Self {
        Self { step, mark: Mark::Good, reason: None, found: found.into(), cure: None }
    }

    /// A link that holds, but somebody should look.
    pub fn doubt(
        step: &'static str,
        reason: impl Into<String>,
        found: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        let (reason, cure) = (Some(reason.into()), Some(cure.into()));
        Self { step, mark: Mark::Doubt, reason, found: found.into(), cure }
    }

    /// A link that does not hold.
    pub fn broken(
        step: &'static str,
        reason: impl Into<String>,
        found: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self { mark: Mark::Broken, ..Self::doubt(step, reason, found, cure) }
    }

    /// A link that was not looked at.
    pub fn skipped(step: &'static str, why: impl Into<String>) -> Self {
        Self { mark: Mark::Skipped, ..Self::good(step, why) }
    }
}

/// All links, in their order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// What was looked at.
    pub subject: String,
    /// The links.
    pub findings: Vec<Finding>,
}

#[derive(Serialize)]
struct Json<'a> {
    subject: &'a str,
    ok: bool,
    findings: &'a [Finding],
    #[serde(rename = "firstBroken")]
    first_broken: Option<&'a Finding>,
}

impl Report {
    /// The link to mend first.
    pub fn first_broken(&self) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.mark == Mark::Broken)
    }

    /// For people. With `color`, marks are coloured (ANSI).
    pub fn text(&self, color: bool) -> String {
        let width = self.findings.iter().map(|finding| finding.step.len()).max().unwrap_or(0);
        let mut text = format!("{}\n\n", self.subject);
        for Finding { step, mark, found, reason, .. } in &self.findings {
            let (sign, code) = match mark {
                Mark::Good => ("✓", "32"),
                Mark::Doubt => ("!", "33"),
                Mark::Broken => ("✗", "31"),
                Mark::Skipped => ("–", "2"),
            };
            let sign =
                if color { format!("\u{1b}[{code}m{sign}\u{1b}[0m") } else { sign.to_owned() };
            let reason = reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
            // Writing to a String does not fail.
            let _ = writeln!(text, "{sign} {step:width$}  {found}{reason}");
        }
        for finding in self.findings.iter().filter(|finding| finding.mark == Mark::Doubt) {
            let cure = finding.cure.as_deref().unwrap_or_default();
            let _ = write!(text, "\n! {}: {cure}\n", finding.step);
        }
        match self.first_broken() {
            None => text.push_str("\nNothing is broken.\n"),
            Some(finding) => {
                let _ = write!(text, "\nFirst broken link: {}: {}\n", finding.step, finding.found);
                if let Some(cure) = &finding.cure {
                    let _ = writeln!(text, "Cure: {cure}");
                }
            }
        }
        text
    }

    /// For programs: `{"subject", "ok", "findings": [{"step", "mark", "reason", "found", "cure"}],
    /// "firstBroken"}`, indented.
    pub fn json(&self) -> String {
        let first_broken = self.first_broken();
        let json = Json {
            subject: &self.subject,
            ok: first_broken.is_none(),
            findings: &self.findings,
            first_broken,
        };
        // Texts and nothing else: it cannot fail.
        serde_json::to_string_pretty(&json).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            subject: "https://vault:8200".to_owned(),
            findings: vec![
                Finding::good("AWS identity", "profile `dev`"),
                Finding::doubt("Clock", "ClockSkew", "90 s ahead of STS", "synchronise it"),
                Finding::broken("Vault", "VaultSealed", "it is sealed", "unseal it"),
                Finding::broken("Login", "LoginDenied", "denied", "bind it"),
                Finding::skipped("KV", "not reached"),
            ],
        }
    }

    #[test]
    fn the_first_broken_link_is_said_last_with_its_cure() {
        assert_eq!(
            report().text(false),
            "https://vault:8200\n\
             \n\
             ✓ AWS identity  profile `dev`\n\
             ! Clock         90 s ahead of STS (ClockSkew)\n\
             ✗ Vault         it is sealed (VaultSealed)\n\
             ✗ Login         denied (LoginDenied)\n\
             – KV            not reached\n\
             \n\
             ! Clock: synchronise it\n\
             \n\
             First broken link: Vault: it is sealed\n\
             Cure: unseal it\n"
        );
    }

    #[test]
    fn colour_is_for_the_marks_alone() {
        let text = report().text(true);
        assert!(text.contains("\u{1b}[31m✗\u{1b}[0m Vault"), "{text}");
    }

    #[test]
    fn programs_get_the_same_as_json() {
        let json: serde_json::Value = serde_json::from_str(&report().json()).unwrap();
        assert_eq!(json["ok"], false);
        assert_eq!(json["findings"][0]["mark"], "good");
        assert_eq!(json["firstBroken"]["step"], "Vault");
        assert_eq!(json["firstBroken"]["cure"], "unseal it");
    }

    #[test]
    fn without_a_broken_link_that_is_said() {
        let report =
            Report { subject: "x".to_owned(), findings: vec![Finding::good("Clock", "fine")] };
        assert!(report.text(false).ends_with("Nothing is broken.\n"));
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!((&json["ok"], &json["firstBroken"]), (&true.into(), &serde_json::Value::Null));
    }
}
