//! A review as text for a terminal, as JSON for programs, as Markdown for a pull request. Pure.
//!
//! Whatever comes from a manifest or from Vault goes through [`escape`]; JSON escapes by itself.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;
use serde_json::Value;

use super::{
    Delivery, FieldChange, Isolation, Judged, Review, Verdict,
    escape::{self, code, line},
    manifest::Problem,
};

/// The most characters of a comment: GitHub takes 65536.
const COMMENT: usize = 60_000;

/// A word for a verdict, its sign, and its colour (ANSI).
fn word(verdict: Verdict) -> (&'static str, &'static str, &'static str) {
    match verdict {
        Verdict::Valid => ("valid", "✓", "32"),
        Verdict::Unchanged => ("unchanged", "=", "2"),
        Verdict::Created => ("created", "+", "32"),
        Verdict::Changed => ("changed", "~", "33"),
        Verdict::Refused => ("refused", "✗", "31"),
        Verdict::Failed => ("not known", "✗", "31"),
    }
}

impl Judged {
    fn object(&self) -> String {
        if self.namespace.is_empty() {
            format!("{} {}", self.kind, self.name)
        } else {
            format!("{} {}/{}", self.kind, self.namespace, self.name)
        }
    }

    /// Reason and message, as far as there are any.
    fn why(&self) -> Option<String> {
        match (&self.reason, &self.message) {
            (Some(reason), Some(message)) => Some(format!("{reason}: {message}")),
            (None, Some(message)) => Some(message.clone()),
            _ => None,
        }
    }

    fn tenancy(&self) -> Option<&'static str> {
        Some(if self.tenancy? { "granted" } else { "denied" })
    }
}

impl Isolation {
    fn text(&self) -> String {
        let mut text = format!("{}: {}", self.reason, self.message);
        if !self.also_reaches.is_empty() {
            let _ = write!(text, "; also reaches {}", self.also_reaches.join(", "));
        }
        text
    }
}

impl Delivery {
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for one in &self.secrets {
            lines.push(match (&one.secret, one.reason) {
                (Some(secret), _) => format!("{secret} from {}", one.entry),
                (None, reason) => {
                    format!("none for {}: {}", one.entry, reason.unwrap_or_default())
                }
            });
        }
        for pattern in &self.patterns {
            lines.push(format!("whatever Vault has for the pattern {pattern}"));
        }
        if lines.is_empty() {
            lines.push("none: the directory is empty".to_owned());
        }
        lines
    }
}

impl Problem {
    fn text(&self) -> String {
        let Self { object, field, message, .. } = self;
        if field.is_empty() {
            format!("{object}: {message}")
        } else {
            format!("{object}: {field}: {message}")
        }
    }
}

impl FieldChange {
    fn text(&self) -> String {
        match &self.old {
            Value::Null => format!("{}: {}", self.field, self.new),
            old => format!("{}: {old} → {}", self.field, self.new),
        }
    }
}

impl Review {
    /// One line that says all.
    pub fn summary(&self) -> String {
        let refused = self.refusals();
        if self.online {
            format!(
                "{} to create, {} to change, {} unchanged, {refused} refused",
                self.count(&[Verdict::Created]),
                self.count(&[Verdict::Changed]),
                self.count(&[Verdict::Unchanged]),
            )
        } else {
            format!("{} valid, {refused} refused", self.count(&[Verdict::Valid]))
        }
    }

    fn skipped(&self) -> Option<String> {
        let total: usize = self.skipped.values().sum();
        let kinds: Vec<String> =
            self.skipped.iter().map(|(kind, count)| format!("{kind} ({count})")).collect();
        (total > 0).then(|| format!("{total} of other kinds skipped: {}", kinds.join(", ")))
    }

    /// For people at a terminal. With `color`, verdicts and diffs are coloured (ANSI).
    pub fn text(&self, color: bool) -> String {
        let paint = |code: &str, text: &str| {
            if color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
        };
        let mut text = String::new();
        for problem in &self.problems {
            let (_, sign, code) = word(Verdict::Refused);
            let place = line(&problem.place.to_string());
            let _ = writeln!(text, "{} {place}\n    {}", paint(code, sign), line(&problem.text()));
        }
        for one in &self.resources {
            let (verdict, sign, code) = word(one.verdict);
            let (sign, verdict) = (paint(code, sign), paint(code, verdict));
            let _ = writeln!(text, "{sign} {}: {verdict}", line(&one.object()));
            let _ = writeln!(text, "    {}", line(&one.place));
            if let Some(why) = one.why() {
                let _ = writeln!(text, "    {}", line(&why));
            }
            if let Some(tenancy) = one.tenancy() {
                let _ = writeln!(text, "    tenancy    {tenancy}");
            }
            if let Some(isolation) = &one.isolation {
                let _ = writeln!(text, "    isolation  {}", line(&isolation.text()));
            }
            if let Some(role) = &one.role {
                let ownership = line(role.ownership);
                let _ = writeln!(text, "    role       {} ({ownership})", line(&role.path));
                for field in &role.fields {
                    let _ = writeln!(text, "      {}", line(&field.text()));
                }
            }
            if let Some(policy) = &one.policy {
                let _ = writeln!(text, "    policy     {}", line(&policy.name));
                for one in
                    escape::lines(policy.diff.trim_end()).iter().filter(|_| !policy.diff.is_empty())
                {
                    let code = match one.as_bytes().first() {
                        Some(b'+') => "32",
                        Some(b'-') => "31",
                        Some(b'@') => "36",
                        _ => "0",
                    };
                    let one = if code == "0" { one.clone() } else { paint(code, one) };
                    let _ = writeln!(text, "{}", format!("      {one}").trim_end());
                }
            }
            if let Some(delivery) = &one.delivery {
                let _ = writeln!(text, "    from       {}", line(&delivery.directory));
                for secret in delivery.lines() {
                    let _ = writeln!(text, "    Secret     {}", line(&secret));
                }
            }
        }
        if !text.is_empty() {
            text.push('\n');
        }
        if let Some(skipped) = self.skipped() {
            let _ = writeln!(text, "{}", line(&skipped));
        }
        for left in &self.not_checked {
            let _ = writeln!(text, "Not looked at: {}", line(left));
        }
        let _ = writeln!(text, "{}", self.summary());
        text
    }

    /// For a comment under a pull request: GitHub-flavoured Markdown, at most as long as GitHub takes.
    pub fn markdown(&self) -> String {
        let whole = self.comment(true, usize::MAX);
        if whole.chars().count() <= COMMENT {
            return whole;
        }
        let short = self.comment(false, usize::MAX);
        if short.chars().count() <= COMMENT { short } else { self.comment(false, 40) }
    }

    fn comment(&self, diffs: bool, most: usize) -> String {
        let mode = if self.online { "" } else { " (offline)" };
        let mut text = format!("### vault-aws plan{mode}\n\n**{}**\n", self.summary());
        if !diffs {
            text.push_str("\nPolicies are left out: the comment would be too long.\n");
        }
        let mut left = most;
        if !self.problems.is_empty() {
            text.push_str("\n**Refused manifests**\n\n");
        }
        for problem in self.problems.iter().take(left) {
            let _ = writeln!(
                text,
                "- ❌ {}: {}",
                code(&problem.place.to_string()),
                code(&problem.text())
            );
        }
        left = left.saturating_sub(self.problems.len());
        for one in self.resources.iter().take(left) {
            one.comment(diffs, &mut text);
        }
        let all = self.problems.len() + self.resources.len();
        if all > most {
            let _ = writeln!(text, "\n… and {} more.", all - most);
        }
        let mut notes: Vec<String> = self.skipped().into_iter().collect();
        notes.extend(self.not_checked.iter().map(|left| format!("Not looked at: {left}")));
        if !notes.is_empty() {
            text.push('\n');
        }
        for note in notes {
            let _ = writeln!(text, "- {}", code(&note));
        }
        text
    }

    /// For programs, indented: see the README for its form.
    pub fn json(&self) -> String {
        let counts = BTreeMap::from([
            ("created", self.count(&[Verdict::Created])),
            ("changed", self.count(&[Verdict::Changed])),
            ("unchanged", self.count(&[Verdict::Unchanged])),
            ("valid", self.count(&[Verdict::Valid])),
            ("refused", self.refusals()),
        ]);
        let problems: Vec<JsonProblem<'_>> = self
            .problems
            .iter()
            .map(|problem| JsonProblem {
                file: &problem.place.file,
                document: problem.place.document,
                line: problem.place.line,
                item: problem.place.item,
                object: &problem.object,
                field: &problem.field,
                message: &problem.message,
            })
            .collect();
        let json = Json {
            format: "vaultaws.dev/plan/v1",
            mode: if self.online { "online" } else { "offline" },
            exit_code: self.exit_code(),
            counts,
            files: self.files,
            skipped: &self.skipped,
            problems,
            resources: &self.resources,
            not_checked: &self.not_checked,
        };
        // Texts, numbers and lists: it cannot fail.
        serde_json::to_string_pretty(&json).unwrap_or_default() + "\n"
    }
}

impl Judged {
    fn comment(&self, diffs: bool, text: &mut String) {
        let (verdict, ..) = word(self.verdict);
        let sign = match self.verdict {
            Verdict::Valid | Verdict::Unchanged => "✅",
            Verdict::Created => "🆕",
            Verdict::Changed => "✏️",
            Verdict::Refused | Verdict::Failed => "❌",
        };
        let _ = writeln!(text, "\n#### {sign} {}: {verdict}\n", code(&self.object()));
        let _ = writeln!(text, "- {}", code(&self.place));
        if let Some(why) = self.why() {
            let _ = writeln!(text, "- **why**: {}", code(&why));
        }
        if let Some(tenancy) = self.tenancy() {
            let _ = writeln!(text, "- **tenancy**: {tenancy}");
        }
        if let Some(isolation) = &self.isolation {
            let _ = writeln!(text, "- **isolation**: {}", code(&isolation.text()));
        }
        if let Some(role) = &self.role {
            let _ = writeln!(text, "- **role** {} ({})", code(&role.path), role.ownership);
            for field in &role.fields {
                let _ = writeln!(text, "  - {}", code(&field.text()));
            }
        }
        if let Some(delivery) = &self.delivery {
            let _ = writeln!(text, "- **from** {}", code(&delivery.directory));
            for secret in delivery.lines() {
                let _ = writeln!(text, "- **Secret** {}", code(&secret));
            }
        }
        if let Some(policy) = &self.policy {
            let _ = writeln!(text, "- **policy** {}", code(&policy.name));
            if diffs && !policy.diff.is_empty() {
                let _ = write!(text, "\n{}", escape::block("diff", &policy.diff));
            }
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Json<'a> {
    format: &'static str,
    mode: &'static str,
    exit_code: u8,
    counts: BTreeMap<&'static str, usize>,
    files: usize,
    skipped: &'a BTreeMap<String, usize>,
    problems: Vec<JsonProblem<'a>>,
    resources: &'a [Judged],
    not_checked: &'a [String],
}

#[derive(Serialize)]
struct JsonProblem<'a> {
    file: &'a str,
    document: usize,
    line: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<usize>,
    object: &'a str,
    field: &'a str,
    message: &'a str,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::review::{
        PlannedSecret, PolicyChange, RoleChange,
        escape::tests::{hostile, without_code},
        manifest::Place,
    };

    /// A review in which every text that others choose is this one.
    fn saying(text: &str) -> Review {
        let all = || text.to_owned();
        let place = Place { file: all(), document: 1, line: 2, item: None };
        Review {
            online: true,
            files: 1,
            skipped: BTreeMap::from([(all(), 1)]),
            problems: vec![Problem {
                place: place.clone(),
                object: all(),
                field: all(),
                message: all(),
            }],
            resources: vec![Judged {
                kind: "VaultAwsRole",
                namespace: all(),
                name: all(),
                place: place.to_string(),
                verdict: Verdict::Changed,
                reason: Some(all()),
                message: Some(all()),
                tenancy: Some(true),
                role: Some(RoleChange {
                    path: all(),
                    ownership: "ours",
                    fields: vec![FieldChange {
                        field: all(),
                        old: json!([text]),
                        new: json!({ text: text }),
                    }],
                    stuck: vec![all()],
                }),
                policy: Some(PolicyChange { name: all(), diff: format!("+{text}\n-x\n") }),
                isolation: Some(Isolation {
                    isolated: None,
                    reason: "NotIsolated",
                    message: all(),
                    also_reaches: vec![all()],
                }),
                delivery: Some(Delivery {
                    directory: all(),
                    secrets: vec![PlannedSecret {
                        entry: all(),
                        secret: Some(all()),
                        reason: None,
                    }],
                    patterns: vec![all()],
                }),
            }],
            not_checked: vec![all()],
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_out_of_the_comment(text in hostile()) {
            // Not empty: an empty one is said in other words.
            let text = format!("x{text}");
            let harmless = without_code(&saying("x").markdown());
            prop_assert_eq!(without_code(&saying(&text).markdown()), harmless);
        }

        #[test]
        fn no_text_moves_the_cursor_or_colours_anything(text in hostile()) {
            let shown = saying(&text).text(false);
            prop_assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{shown:?}");
            let hidden = ['\u{202e}', '\u{2066}', '\u{200b}', '\u{feff}'];
            prop_assert!(!shown.contains(hidden), "{shown:?}");
            let coloured = saying(&text).text(true);
            let bare = coloured.replace("\u{1b}[0m", "");
            let bare = ["33", "32", "31", "36"]
                .iter()
                .fold(bare, |bare, code| bare.replace(&format!("\u{1b}[{code}m"), ""));
            prop_assert!(!bare.contains('\u{1b}'), "{coloured:?}");
        }

        #[test]
        fn json_says_every_text_as_it_is(text in hostile()) {
            let json: Value = serde_json::from_str(&saying(&text).json()).expect("JSON");
            prop_assert_eq!(json["problems"][0]["message"].as_str(), Some(text.as_str()));
            prop_assert_eq!(json["resources"][0]["name"].as_str(), Some(text.as_str()));
            prop_assert_eq!(json["exitCode"].as_u64(), Some(1));
        }
    }

    #[test]
    fn a_comment_is_never_longer_than_github_takes() {
        let mut review = saying("x");
        let diff = "+path\n".repeat(20_000);
        if let Some(policy) = &mut review.resources[0].policy {
            policy.diff = diff;
        }
        let short = review.markdown();
        assert!(short.chars().count() < COMMENT && short.contains("left out"));
        review.resources = vec![saying(&"y".repeat(1900)).resources.remove(0); 300];
        assert!(review.markdown().contains("… and 261 more."));
    }

    #[test]
    fn the_exit_code_is_that_of_the_worst() {
        let with = |verdicts: &[Verdict]| {
            let mut review = saying("x");
            let one = review.resources.remove(0);
            review.problems.clear();
            review.resources = verdicts
                .iter()
                .map(|verdict| Judged { verdict: *verdict, ..one.clone() })
                .collect();
            review.exit_code()
        };
        assert_eq!(with(&[]), 0);
        assert_eq!(with(&[Verdict::Unchanged, Verdict::Valid]), 0);
        assert_eq!(with(&[Verdict::Unchanged, Verdict::Changed]), 2);
        assert_eq!(with(&[Verdict::Created, Verdict::Refused]), 1);
        assert_eq!(with(&[Verdict::Created, Verdict::Failed]), 1);
    }
}
