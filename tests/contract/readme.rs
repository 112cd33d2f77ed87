//! The README: what it shows exists.

use std::collections::BTreeSet;

use vault_aws_operator::crd::{BackendReason, CertificateState, RoleReason, SyncReason};

use crate::{documents, manifests, parse, path, read};

#[test]
fn the_readme_explains_every_reason_and_no_other() {
    let all = |reasons: Vec<&'static str>| reasons.into_iter().collect::<BTreeSet<_>>();
    for (kind, reasons) in [
        ("VaultAwsBackend", all(BackendReason::ALL.iter().map(|one| one.as_str()).collect())),
        ("VaultAwsRole", all(RoleReason::ALL.iter().map(|one| one.as_str()).collect())),
        ("VaultCertSync", all(SyncReason::ALL.iter().map(|one| one.as_str()).collect())),
    ] {
        let readme = read("README.md");
        let explained: BTreeSet<&str> = section(&readme, &format!("### Reasons of a {kind}"))
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .collect();
        let absent: Vec<_> = reasons.difference(&explained).collect();
        let invented: Vec<_> = explained.difference(&reasons).collect();
        assert!(
            absent.is_empty() && invented.is_empty(),
            "README, reasons of a {kind}: not explained {absent:?}, not in src/crd {invented:?}"
        );
    }
}

#[test]
fn the_readme_explains_every_state_of_a_certificate() {
    use CertificateState::{Kept, Refused, Removed, Synced};
    let readme = read("README.md");
    let states = section(&readme, "### States of a certificate");
    for state in [Synced, Kept, Refused, Removed] {
        assert!(states.contains(&format!("| `{}` |", state.as_str())), "{state:?}");
    }
}

#[test]
fn the_manifests_in_the_readme_are_the_examples() {
    let mut shown = Vec::new();
    for block in blocks(&read("README.md"), "yaml") {
        for document in parse("README.md", &block) {
            if document["kind"].as_str().is_some_and(|kind| kind.starts_with("Vault")) {
                manifests::check("README.md", &document);
                shown.push(document);
            }
        }
    }
    for file in ["backend.yaml", "role.yaml", "sync.yaml"] {
        let example = documents(&format!("deploy/examples/{file}")).remove(0);
        assert!(shown.contains(&example), "README.md does not show deploy/examples/{file}");
    }
}

#[test]
fn every_file_that_the_readme_names_is_there() {
    let readme = read("README.md");
    let mut named = 0;
    for word in readme
        .split(|character: char| character.is_whitespace() || "`\"'()[],;|@=:".contains(character))
    {
        let word = word.trim_end_matches('.');
        if ["crds", "deploy", "src", "tests", ".ci"]
            .iter()
            .any(|folder| word.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')))
        {
            assert!(path(word).exists(), "README.md names {word}");
            named += 1;
        }
    }
    assert!(named > 5, "the README names the files it speaks of");
}

/// From a heading to the next of the same or a higher level.
fn section<'a>(readme: &'a str, heading: &str) -> &'a str {
    let start = readme
        .find(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("README.md has no heading `{heading}`"));
    let body = &readme[start + heading.len() + 2..];
    let end = ["\n# ", "\n## ", "\n### "].iter().filter_map(|mark| body.find(mark)).min();
    &body[..end.unwrap_or(body.len())]
}

/// The fenced blocks of one language.
fn blocks(readme: &str, language: &str) -> Vec<String> {
    let (mut found, mut current) = (Vec::new(), None::<String>);
    for line in readme.lines() {
        match &mut current {
            None if line == format!("```{language}") => current = Some(String::new()),
            Some(_) if line == "```" => found.extend(current.take()),
            Some(block) => {
                block.push_str(line);
                block.push('\n');
            }
            None => {}
        }
    }
    found
}
