//! Tests of the language and of the evaluator, which need no Vault; what Vault says to the same
//! questions is asked by the tests on real servers.

use super::*;

fn policy(text: &str) -> Policy {
    Policy::parse(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// One rule for each `(path, words)`.
fn rules(rules: &[(&str, &str)]) -> Policy {
    let text = rules.iter().map(|(path, words)| {
        let words: Vec<String> =
            words.split_whitespace().map(|word| format!("\"{word}\"")).collect();
        format!("path \"{path}\" {{ capabilities = [{}] }}\n", words.join(","))
    });
    policy(&text.collect::<String>())
}

fn words(policies: &[&Policy], path: &str) -> String {
    let acl = Acl::new(Dialect::Vault, policies.iter().copied());
    let decision = acl.decide(path, Operation::List);
    assert_eq!(decision.at_least, decision.at_most, "{path}");
    decision.at_most.words().join(" ")
}

// === the language ===

#[test]
fn hcl_and_json_say_the_same() {
    let hcl = policy(
        "# mine\npath \"a/b/*\" {\n  capabilities = [\"read\", \"list\"]\n}\npath \"c\" { policy = \
         \"write\" }",
    );
    let json = policy(
        r#" {"path": {"a/b/*": {"capabilities": ["read", "list"]}, "c": {"policy": "write"}}}"#,
    );
    assert_eq!(hcl, json);
    assert_eq!(hcl.rules[1].capabilities.to_string(), "create, delete, list, read, update");
}

#[test]
fn legacy_words_are_capabilities() {
    let of = |word: &str| {
        policy(&format!("path \"x\" {{ policy = \"{word}\" }}")).rules[0].capabilities.to_string()
    };
    assert_eq!(of("read"), "list, read");
    assert_eq!(of("sudo"), "create, delete, list, read, sudo, update");
    assert_eq!(of("deny"), "deny");
    assert_eq!(of(""), "deny");
}

#[test]
fn a_legacy_word_adds_to_the_list_and_deny_replaces_it() {
    let with = |word: &str| {
        let text = format!("path \"x\" {{ capabilities = [\"patch\"]\n policy = \"{word}\" }}");
        policy(&text).rules[0].capabilities
    };
    assert_eq!(with("read").to_string(), "list, patch, read");
    assert_eq!(with("deny"), Capabilities::DENY);
}

#[test]
fn deny_in_a_list_is_alone() {
    assert_eq!(rules(&[("x", "read deny list")]).rules[0].capabilities, Capabilities::DENY);
}

#[test]
fn what_we_do_not_know_is_recorded() {
    let read = policy(
        "future = 1\npath \"x\" {\n capabilities = [\"read\", \"fly\"]\n wings = 2\n policy = \
         \"hover\" }",
    );
    assert_eq!(read.unknown().collect::<Vec<_>>(), ["future", "wings", "hover", "fly"]);
    assert_eq!(read.rules[0].capabilities, Capabilities::READ);
    assert!(!read.rules[0].is_certain());
}

#[test]
fn words_of_either_product_are_known() {
    let read = rules(&[("x", "subscribe recover scan patch sudo")]);
    assert_eq!(read.unknown().count(), 0);
    let bao = policy(
        "path \"x\" { capabilities = [\"list\"]\n pagination_limit = 5\n expiration = \
         \"2030-01-01T00:00:00Z\" }",
    );
    assert_eq!(bao.unknown().count(), 0);
    assert!(bao.rules[0].expires);
}

#[test]
fn letters_of_another_case_are_unknown() {
    assert_eq!(policy("Path \"x\" {}").unknown().collect::<Vec<_>>(), ["Path"]);
    assert_eq!(rules(&[("x", "Read")]).unknown().collect::<Vec<_>>(), ["Read"]);
}

#[test]
fn keys_that_narrow_are_noticed() {
    for body in [
        "allowed_parameters = { \"*\" = [] }",
        "denied_parameters = { a = [\"b\"] }",
        "required_parameters = [\"a\"]",
        "min_wrapping_ttl = \"1s\"",
        "max_wrapping_ttl = 90",
        "mfa_methods = [\"m\"]",
        "control_group = { factor \"x\" { identity { group_names = [\"g\"]\n approvals = 1 } } }",
    ] {
        let read = policy(&format!("path \"x\" {{ capabilities = [\"read\"]\n {body} }}"));
        assert!(read.rules[0].narrowed && read.rules[0].is_certain(), "{body}");
    }
    assert!(!policy("path \"x\" { comment = <<E\nhi\nE\n }").rules[0].narrowed);
}

#[test]
fn a_block_without_a_label_is_a_rule_for_the_word_path() {
    assert_eq!(policy("path { capabilities = [\"read\"] }").rules[0].path, "path");
    assert_eq!(policy(r#"{"path": {"capabilities": ["read"]}}"#).rules[0].path, "path");
    let inner = policy("path = { \"a\" = { capabilities = [\"read\"] } }");
    assert_eq!(inner.unknown().collect::<Vec<_>>(), ["a"]);
}

#[test]
fn a_key_twice_takes_both() {
    let twice = policy("path \"x\" { capabilities = [\"read\"]\n capabilities = [\"list\"] }");
    assert!(twice.repeats);
    assert_eq!(twice.rules[0].capabilities.to_string(), "list, read");
    let json = policy(r#"{"path": {"x": {"capabilities": ["read"], "capabilities": ["list"]}}}"#);
    assert!(!json.repeats);
    assert_eq!(json.rules, twice.rules);
}

#[test]
fn templates_are_recognised_and_unbalanced_ones_refused() {
    let read = rules(&[("identity/entity/id/{{identity.entity.id}}", "read"), ("a/{b}", "read")]);
    assert!(read.rules[0].templated && !read.rules[1].templated);
    for path in ["a/{{b", "a}}", "{{a}}b}}", "{{a{{b}}"] {
        assert!(Policy::parse(&format!("path \"{path}\" {{}}")).is_err(), "{path}");
    }
}

#[test]
fn what_vault_refuses_is_refused() {
    for text in [
        "path \"a/+*\" { capabilities = [\"read\"] }",
        "path \"a\" { capabilities = \"read\" }",
        "path \"a\" { capabilities = [[\"read\"]] }",
        "path \"a\" { capabilities \"x\" {} }",
        "path \"a\" { policy = [\"read\"] }",
        "path = [\"a\"]",
        "path = \"a\"",
        r#"{"path": {"a": {"capabilities": "read"}}}"#,
    ] {
        assert!(Policy::parse(text).is_err(), "{text}");
    }
}

#[test]
fn a_text_without_rules_is_a_policy_without_rules() {
    for text in ["", "# nothing", "{}", "name = \"x\""] {
        assert_eq!(policy(text), Policy::default(), "{text}");
    }
}

#[test]
fn too_much_is_refused() {
    assert_eq!(Policy::parse(&" ".repeat(MAX_TEXT + 1)), Err(ParseError::TooLong));
    let many = "path \"a\" {}\n".repeat(MAX_RULES + 1);
    assert_eq!(Policy::parse(&many), Err(ParseError::TooManyRules));
    assert_eq!(policy(&"path \"a\" {}\n".repeat(MAX_RULES)).rules.len(), MAX_RULES);
}

#[test]
fn an_error_says_where_and_what() {
    let error = Policy::parse("\npath \"a\" ?").unwrap_err();
    assert_eq!(error.to_string(), "line 2: a character that is not expected here");
    let error = Policy::parse("path \"a/+*\" {}").unwrap_err();
    assert_eq!(error.to_string(), "path `a/+*`: `+*` is no wildcard");
}

// === the evaluator ===

#[test]
fn an_exact_rule_goes_before_all_others() {
    let all = rules(&[("a/*", "read list"), ("a/b", "update")]);
    assert_eq!(words(&[&all], "a/b"), "update");
    assert_eq!(words(&[&all], "a/c"), "list read");
    assert_eq!(words(&[&rules(&[("a/*", "read"), ("a/b", "")])], "a/b"), "deny");
}

#[test]
fn the_same_path_in_two_policies_is_one_rule() {
    let (one, other) = (rules(&[("a/*", "read")]), rules(&[("/a/*", "list")]));
    assert_eq!(words(&[&one, &other], "a/b"), "list read");
    let deny = rules(&[("a/*", "deny")]);
    assert_eq!(words(&[&one, &deny, &other], "a/b"), "deny");
}

#[test]
fn different_paths_never_add_up() {
    let all = rules(&[("a/*", "read"), ("a/b/*", "list"), ("a/+/c", "update")]);
    assert_eq!(words(&[&all], "a/b/c"), "list");
    assert_eq!(words(&[&all], "a/x/c"), "update");
    assert_eq!(words(&[&all], "a/x/d"), "read");
}

#[test]
fn listing_is_decided_as_the_real_vault_does() {
    // Rule on the directory's metadata; capabilities asked for the directory without and with its
    // slash, and for an entry in it.
    for (path, capabilities, bare, slash, entry) in [
        ("r/*", "list read", "deny", "list read", "list read"),
        ("r", "list", "list", "list", "deny"),
        ("r/", "list", "deny", "list", "deny"),
        ("r*", "list", "list", "list", "list"),
    ] {
        let rule = rules(&[(path, capabilities)]);
        assert_eq!(words(&[&rule], "r"), bare, "{path}");
        assert_eq!(words(&[&rule], "r/"), slash, "{path}");
        assert_eq!(words(&[&rule], "r/web"), entry, "{path}");
    }
}

#[test]
fn a_broader_glob_wins_for_listing_unless_the_directory_has_an_exact_rule() {
    let glob = rules(&[("secret/metadata/*", "deny")]);
    let own = rules(&[("secret/metadata/r/*", "list")]);
    assert_eq!(words(&[&glob, &own], "secret/metadata/r/"), "deny");
    let exact = rules(&[("secret/metadata/r/", "list")]);
    assert_eq!(words(&[&glob, &own, &exact], "secret/metadata/r/"), "list");
}

#[test]
fn where_servers_list_differently_both_count() {
    let all = rules(&[("a/*", "read"), ("a/r/*", "list")]);
    for (dialect, at_least, at_most) in [
        (Dialect::Vault, "read", "read"),
        (Dialect::OpenBao, "deny", "list, read"),
        (Dialect::LaterVault, "deny", "list, read"),
        (Dialect::Unknown, "deny", "list, read"),
    ] {
        let decision = Acl::new(dialect, [&all]).decide("a/r/", Operation::List);
        assert_eq!(decision.at_least.to_string(), at_least, "{dialect:?}");
        assert_eq!(decision.at_most.to_string(), at_most, "{dialect:?}");
    }
}

#[test]
fn reading_does_not_look_at_the_path_without_its_slash() {
    let acl = Acl::new(Dialect::Vault, [&rules(&[("a/b", "read list")])]);
    assert!(acl.may_allow("a/b/", Operation::List));
    assert!(!acl.may_allow("a/b/", Operation::Read));
    assert!(acl.surely_allows("/a/b", Operation::Read));
}

#[test]
fn what_may_not_be_in_force_counts_for_neighbours_and_not_for_own_access() {
    let sure = rules(&[("a/b", "read"), ("c", "read")]);
    for doubtful in [
        rules(&[("a/{{x}}", "list")]),
        policy("path \"a/b\" { capabilities = [\"list\"]\n expiration = \"x\" }"),
        policy("path \"a/b\" { capabilities = [\"list\"]\n wings = 2 }"),
    ] {
        let acl = Acl::new(Dialect::Vault, [&sure, &doubtful]);
        let decision = acl.decide("a/b", Operation::Read);
        assert_eq!(decision.at_least, Capabilities::NONE);
        assert_eq!(decision.at_most.to_string(), "list, read");
        assert!(acl.surely_allows("c", Operation::Read));
    }
}

#[test]
fn a_deny_that_may_not_be_in_force_hides_nothing() {
    let expiring = policy("path \"a\" { policy = \"deny\"\n expiration = \"x\" }");
    let acl = Acl::new(Dialect::OpenBao, [&rules(&[("a", "read")]), &expiring]);
    assert!(acl.may_allow("a", Operation::Read));
    assert!(!acl.surely_allows("a", Operation::Read));
}

#[test]
fn a_narrowed_rule_is_no_sure_access() {
    let narrowed = policy("path \"a\" { capabilities = [\"update\"]\n allowed_parameters = {} }");
    let acl = Acl::new(Dialect::Vault, [&narrowed]);
    assert!(acl.may_allow("a", Operation::Update) && !acl.surely_allows("a", Operation::Update));
}

#[test]
fn a_key_set_twice_may_cost_all_access() {
    let twice = policy("path \"a\" { capabilities = [\"read\"]\n capabilities = [\"list\"] }");
    for (dialect, sure) in
        [(Dialect::Vault, false), (Dialect::Unknown, false), (Dialect::OpenBao, true)]
    {
        let acl = Acl::new(dialect, [&twice]);
        assert!(acl.may_allow("a", Operation::Read), "{dialect:?}");
        assert_eq!(acl.surely_allows("a", Operation::Read), sure, "{dialect:?}");
    }
}

#[test]
fn no_policy_allows_nothing() {
    assert_eq!(words(&[], "a"), "deny");
    assert_eq!(words(&[&rules(&[("*", "read")])], "/"), "read");
}
