//! Which versions of Vault let one account's role pass for another's, or policies be bypassed. Pure.

use crate::{controller::pass::Verdict, crd::BackendReason, vault::health::Product};

/// A published defect and the first versions without it.
struct Defect {
    name: &'static str,
    what: &'static str,
    /// Where it ends, in words.
    until: &'static str,
    /// The first version of the newest line with the fix.
    fixed: [u64; 3],
    /// The first fixed version of older lines.
    backports: &'static [[u64; 3]],
}

const DEFECTS: [Defect; 2] = [
    Defect {
        name: "CVE-2025-11621",
        what: "a role of the same name in another account, or a wildcard, may pass the AWS login",
        until: "fixed in 1.21.0, 1.20.5, 1.19.11 and 1.16.27",
        fixed: [1, 21, 0],
        backports: &[[1, 16, 27], [1, 19, 11], [1, 20, 5]],
    },
    Defect {
        name: "CVE-2026-3605",
        what: "KV v2 metadata and secrets may be deleted past the policy",
        until: "known up to 1.21.4",
        fixed: [1, 21, 5],
        backports: &[],
    },
];

/// The condition `VersionSafe`.
pub fn verdict(product: Product, version: &str) -> Verdict {
    let unknown =
        |why: String| Verdict::unknown("VersionSafe", BackendReason::VersionUnknown.as_str(), why);
    if product == Product::OpenBao {
        // The AWS method is a plugin with a version of its own, which health does not tell.
        return unknown(
            "OpenBao's AWS auth is a plugin: versions below 0.1.1 have CVE-2025-59048".into(),
        );
    }
    let Some(parsed) = parse(version) else {
        return unknown(format!("the version `{}` cannot be read", version.escape_default()));
    };
    let found: Vec<&Defect> = DEFECTS.iter().filter(|defect| affects(defect, parsed)).collect();
    if found.is_empty() {
        return Verdict::yes(
            "VersionSafe",
            BackendReason::VersionSafe.as_str(),
            format!("no known defect of {version} weakens the isolation of roles"),
        );
    }
    let text: Vec<String> = found
        .iter()
        .map(|defect| format!("{} ({}; {})", defect.name, defect.what, defect.until))
        .collect();
    Verdict::no("VersionSafe", BackendReason::VersionUnsafe.as_str(), text.join("; "))
}

fn affects(defect: &Defect, version: [u64; 3]) -> bool {
    let backported = defect
        .backports
        .iter()
        .any(|backport| version[..2] == backport[..2] && version >= *backport);
    version < defect.fixed && !backported
}

/// `1.21.1+ent.hsm` is 1.21.1; a pre-release counts as the version before it.
fn parse(version: &str) -> Option<[u64; 3]> {
    let plain = version.trim_start_matches('v').split(['+', '-']).next()?;
    let mut numbers = plain.split('.').map(str::parse::<u64>);
    let mut next = || numbers.next()?.ok();
    Some([next()?, next()?, next()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(version: &str) -> Option<bool> {
        verdict(Product::Vault, version).holds
    }

    #[test]
    fn a_version_below_a_fix_is_not_safe_and_says_which() {
        let verdict = verdict(Product::Vault, "1.20.4");
        assert_eq!(verdict.holds, Some(false));
        assert!(verdict.message.contains("CVE-2025-11621"), "{}", verdict.message);
        assert_eq!(holds("1.21.1"), Some(false));
        assert_eq!(holds("1.21.5+ent"), Some(true));
        assert_eq!(holds("2.0.0"), Some(true));
    }

    #[test]
    fn a_backport_counts_for_its_own_line() {
        let says = |version, name| verdict(Product::Vault, version).message.contains(name);
        assert!(!says("1.19.11", "CVE-2025-11621"));
        assert!(says("1.18.15", "CVE-2025-11621"));
        assert!(!says("1.16.27+ent", "CVE-2025-11621"));
    }

    #[test]
    fn what_cannot_be_judged_is_unknown() {
        assert_eq!(holds("dev"), None);
        assert_eq!(verdict(Product::OpenBao, "2.4.0").holds, None);
    }
}
