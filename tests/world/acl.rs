//! What is said of Vault's policies without asking Vault, against the real one: thousands of random
//! questions, and texts that are strange on purpose.
//!
//! The random ones come from a fixed seed, which is printed; `VAULT_AWS_ACL_SEED` sets another.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::{self, Write as _},
};

use reqwest::Method;
use serde_json::{Value, json};
use vault_aws_lab::Vault;
use vault_aws_operator::{
    role::isolation::{self, InForce, Question, Reason, Text},
    vault::acl::{Acl, Dialect, Operation, Policy},
};

use crate::{
    dice::Dice,
    world::{PATIENCE, World},
};

tests![
    the_evaluator_decides_as_vault_does,
    strange_texts_say_what_vault_takes_them_for,
    what_is_isolated_reaches_no_neighbour,
];

const SEED: u64 = 20_261_121;
const SEED_VARIABLE: &str = "VAULT_AWS_ACL_SEED";
/// Sets of policies, each with a token; at each some paths and requests are tried.
const SETS: usize = 280;
const PATHS: usize = 30;
/// Sets of policies whose isolation is judged, and paths of neighbours tried at each that is isolated.
const JUDGED: usize = 420;
const NEIGHBOURS: usize = 60;

fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

// === questions ===

/// Accounts and roles that are prefixes of each other.
const ACCOUNTS: [&str; 3] = ["111", "1111", "222"];
const ROLES: [&str; 5] = ["web", "web2", "we", "api", "web+"];
const OPERATIONS: [&str; 7] =
    ["data", "metadata", "subkeys", "delete", "undelete", "destroy", "config"];
const LEAVES: [&str; 6] = ["x", "tls", "a/b", "a", "x/", ""];

/// A path of the KV mount, or near it.
fn path(dice: &mut Dice, mount: &str) -> String {
    let operation =
        if dice.once_in(3) { dice.pick(&OPERATIONS) } else { dice.pick(&["data", "metadata"]) };
    let (account, role, leaf) = (dice.pick(&ACCOUNTS), dice.pick(&ROLES), dice.pick(&LEAVES));
    match dice.below(14) {
        0 => format!("{mount}/{operation}/certs/{account}/"),
        1 => format!("{mount}/{operation}/certs/{account}"),
        2 => format!("{mount}/{operation}/certs"),
        3 => format!("{mount}/{operation}/"),
        4 => format!("{mount}/{operation}/certs/{account}/{role}"),
        5 => format!("{mount}/{operation}/certs/{account}/{role}/"),
        6 => format!("{mount}/{operation}"),
        _ => format!("{mount}/{operation}/certs/{account}/{role}/{leaf}"),
    }
}

/// The path of a rule: a path of the mount, bent by wildcards at one or more places.
fn pattern(dice: &mut Dice, mount: &str) -> String {
    let path = path(dice, mount);
    let mut segments: Vec<&str> = path.split('/').collect();
    for _ in 0..dice.pick(&[&0_usize, &0, &1, &1, &2, &3]).to_owned() {
        let place = dice.below(segments.len());
        segments[place] = dice.pick(&["+", "+", "+", "*", "+b", ""]);
    }
    let keep = 1 + dice.below(segments.len());
    if dice.once_in(2) {
        segments.truncate(keep);
    }
    let mut bent = segments.join("/");
    match dice.below(8) {
        0 | 1 => bent.push_str("/*"),
        2 => bent.push('*'),
        3 => {
            bent.pop();
            bent.push('*');
        }
        4 => bent.push('/'),
        _ => {}
    }
    if dice.once_in(12) {
        bent.insert(0, '/');
    }
    // Vault refuses it as a whole; what it says of that is tried elsewhere.
    bent.replace("+*", "+/*")
}

/// What a rule allows, as HCL.
fn words(dice: &mut Dice) -> String {
    const WORDS: [&str; 9] =
        ["create", "read", "update", "delete", "list", "patch", "sudo", "subscribe", "recover"];
    if dice.once_in(8) {
        return "capabilities = [\"deny\"]".into();
    }
    if dice.once_in(12) {
        return format!("policy = \"{}\"", dice.pick(&["read", "write", "deny", "sudo"]));
    }
    let mut words: Vec<String> = Vec::new();
    for _ in 0..dice.below(4) {
        words.push(format!("\"{}\"", dice.pick(&WORDS)));
    }
    words.push(format!("\"{}\"", dice.pick(&["read", "list", "create", "update"])));
    if dice.once_in(20) {
        words.clear();
    }
    if dice.once_in(20) {
        words.push("\"deny\"".into());
    }
    format!("capabilities = [{}]", words.join(", "))
}

/// Policies of one token: some of their rules have the same path.
fn policies(dice: &mut Dice, mount: &str) -> Vec<String> {
    let mut used: Vec<String> = Vec::new();
    let mut texts = Vec::new();
    for _ in 0..=dice.below(3) {
        let mut text = String::new();
        for _ in 0..1 + dice.below(4) {
            let path = match used.len() {
                0 => pattern(dice, mount),
                count if dice.once_in(5) => used[dice.below(count)].clone(),
                _ => pattern(dice, mount),
            };
            let _ = writeln!(text, "path \"{path}\" {{ {} }}", words(dice));
            used.push(path);
        }
        texts.push(text);
    }
    texts
}

/// Paths on which policies may differ: random ones, and those that their rules speak of.
fn near(dice: &mut Dice, policies: &[Policy], mount: &str) -> String {
    let rules: Vec<&str> =
        policies.iter().flat_map(|policy| &policy.rules).map(|rule| rule.path.as_str()).collect();
    if rules.is_empty() || dice.once_in(3) {
        return path(dice, mount);
    }
    let mut segments: Vec<String> = Vec::new();
    for segment in rules[dice.below(rules.len())].split('/') {
        segments.push(match segment {
            "+" => dice.pick(&["data", "certs", "111", "web", "x", "", mount, "+"]).to_owned(),
            text => match text.strip_suffix('*') {
                Some(prefix) => {
                    format!("{prefix}{}", dice.pick(&["", "2", "x", "/x", "/", "web/x", "*"]))
                }
                None => text.to_owned(),
            },
        });
    }
    match dice.below(8) {
        0 => {
            segments.pop();
        }
        1 => segments.push(String::new()),
        2 => segments.push("x".into()),
        _ => {}
    }
    segments.join("/")
}

// === Vault ===

/// Writes policies and makes a token with nothing but them. The second is what Vault refuses.
async fn token(world: &World, name: &str, texts: &[String]) -> Result<Vault, String> {
    let mut names = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let name = format!("{}-{name}-{index}", world.id);
        let body = json!({"policy": text});
        let (status, answer) =
            world.vault().put(&format!("sys/policies/acl/{name}"), &body).await.expect("Vault");
        if status >= 300 {
            return Err(answer["errors"].to_string());
        }
        names.push(name);
    }
    let body = json!({
        "policies": names, "no_default_policy": true, "no_parent": true, "type": "service",
        "ttl": "10m",
    });
    let answer = world.write("auth/token/create", body).await;
    let token = answer["auth"]["client_token"].as_str().expect("a token");
    Ok(world.vault().with_token(token))
}

/// What Vault says at `sys/capabilities`, path for path.
async fn capabilities(world: &World, token: &Vault, paths: &[String]) -> Vec<Vec<String>> {
    let body = json!({"token": token.token(), "paths": paths});
    let mut answer = world.write("sys/capabilities", body).await;
    let words = |path| serde_json::from_value(answer["data"][path].take()).expect("words");
    let mut all: Vec<Vec<String>> = paths.iter().map(words).collect();
    for words in &mut all {
        words.sort();
    }
    all
}

/// For a URL: a path may hold `+`, `*` and empty segments.
fn encoded(path: &str) -> String {
    path.replace('%', "%25").replace('+', "%2B").replace('*', "%2A")
}

/// Vault answers a path with empty segments by sending the client elsewhere.
fn is_plain(path: &str) -> bool {
    !path.starts_with('/') && !path.contains("//") && !path.contains("/+")
}

// === the tests ===

async fn the_evaluator_decides_as_vault_does(world: World) {
    let mount = world.kv_mount();
    let mut dice = Dice::new("acl::the_evaluator_decides_as_vault_does", SEED_VARIABLE, SEED);
    let (mut compared, mut granted, mut requests, mut allowed) = (0, 0, 0, 0);
    let mut by_order = 0;
    let mut wrong = Vec::new();
    let mut written: BTreeSet<String> = BTreeSet::new();
    writable(&world).await;
    for set in 0..SETS {
        let texts = policies(&mut dice, &mount);
        let parsed: Vec<Policy> = texts
            .iter()
            .map(|text| Policy::parse(text).unwrap_or_else(|error| panic!("{error}:\n{text}")))
            .collect();
        let token = token(&world, &format!("e{set}"), &texts).await;
        let token = token.unwrap_or_else(|error| panic!("Vault refuses {error}:\n{texts:#?}"));
        let acl = Acl::new(Dialect::Vault, &parsed);
        let paths: BTreeSet<String> = (0..PATHS)
            .map(|_| near(&mut dice, &parsed, &mount))
            .filter(|path| !path.is_empty())
            .collect();
        let paths: Vec<String> = paths.into_iter().collect();
        let said = capabilities(&world, &token, &paths).await;
        for (path, said) in paths.iter().zip(said) {
            let decision = acl.decide(path, Operation::List);
            compared += 1;
            granted += usize::from(said != ["deny"]);
            if decision.at_least != decision.at_most || decision.at_most.words() != said {
                wrong.push(format!("{path}: Vault {said:?}, we {decision:?}\n{texts:#?}"));
            }
            // The other dialects have both sides around it.
            for dialect in [Dialect::LaterVault, Dialect::OpenBao, Dialect::Unknown] {
                let wide = Acl::new(dialect, &parsed).decide(path, Operation::List);
                assert!(decision.at_least.contains(wide.at_least), "{path} {dialect:?}");
                assert!(wide.at_most.contains(decision.at_most), "{path} {dialect:?}");
                by_order +=
                    usize::from(dialect == Dialect::Unknown && wide.at_least != wide.at_most);
            }
        }
        let plain: Vec<&String> =
            paths.iter().filter(|path| is_plain(path) && path.starts_with(&mount)).collect();
        for _ in 0..plain.len().min(4) {
            let path = plain[dice.below(plain.len())];
            let bare = path.trim_end_matches('/');
            let (operation, answer) = match dice.below(3) {
                0 => (Operation::Read, token.get(&encoded(path)).await),
                1 => {
                    let list = Method::from_bytes(b"LIST").expect("a method");
                    (Operation::List, token.request(list, &encoded(path), None).await)
                }
                _ if bare.starts_with(&format!("{mount}/data/")) => {
                    let operation =
                        if written.contains(bare) { Operation::Update } else { Operation::Create };
                    let body = json!({"data": {"a": "b"}});
                    (operation, token.post(&encoded(bare), &body).await)
                }
                _ => continue,
            };
            let (status, answer) = answer.expect("Vault");
            let path = match operation {
                Operation::List => format!("{bare}/"),
                Operation::Read => path.clone(),
                _ => bare.to_owned(),
            };
            requests += 1;
            let may = status != 403;
            allowed += usize::from(may);
            if status == 200 && matches!(operation, Operation::Create | Operation::Update) {
                written.insert(path.clone());
            }
            if acl.may_allow(&path, operation) != may || acl.surely_allows(&path, operation) != may
            {
                wrong.push(format!("{operation:?} {path}: {status} {answer}\n{texts:#?}"));
            }
        }
    }
    say(&format!(
        "acl: {compared} answers of sys/capabilities ({granted} granted, {by_order} depend on the \
         order of listing) and {requests} requests ({allowed} allowed), {} differ",
        wrong.len()
    ));
    assert!(wrong.is_empty(), "{} differ, for example\n{}", wrong.len(), wrong[0]);
    assert!(compared >= 5_000 && granted >= 1_000, "{compared} {granted}");
    assert!(by_order > 0, "no question depends on the order of listing");
    assert!(requests >= 500 && allowed >= 100, "{requests} {allowed}");
}

/// Texts, and whether Vault takes them. What it takes and we do not is the third kind.
enum Kind {
    /// Both take it, and it means the same.
    Both,
    /// Vault refuses it: no policy can have this text.
    Refused,
    /// Vault takes it, we do not: the verdict is unknown.
    OnlyVault,
}

async fn strange_texts_say_what_vault_takes_them_for(world: World) {
    use Kind::{Both, OnlyVault, Refused};
    let texts = [
        (Both, "# only a comment"),
        (Both, "name = \"x\"\npath \"a\" { capabilities = [\"read\"] }"),
        (Both, "/* a */ path // b\n\"a\" # c\n{ capabilities = [ # d\n\"read\", ] }"),
        (Both, "\"path\" \"a\" { \"capabilities\" = [\"read\"] }"),
        (Both, "path \"a\" { capabilities = [\"read\"], comment = \"x\" }, path \"b\" {}"),
        (Both, "path \"a\" \"b\" { capabilities = [\"read\"] }"),
        (Both, "path a { capabilities = [\"read\"] }"),
        (Both, "path { capabilities = [\"read\"] }"),
        (Both, "path = { capabilities = [\"read\"] }"),
        (Both, "path \"a\" { capabilities {} }"),
        (Both, "path \"a\" { capabilities = [] }\npath \"*\" { capabilities = [\"read\"] }"),
        (Both, "path \"a\" { policy = \"write\"\n capabilities = [\"patch\"] }"),
        (Both, "path \"a\" { policy = \"deny\"\n capabilities = [\"fly\"] }"),
        (Both, "path \"a\" { policy = \"\"\n capabilities = [\"list\"] }"),
        (Both, "path \"a\" { capabilities = [\"deny\", \"fly\"] }"),
        (Both, "path \"a\" { capabilities = [\"read\", \"deny\"] }"),
        (
            Both,
            "path \"a\" { capabilities = [\"read\"] }\npath \"a\" { capabilities = [\"list\"] }",
        ),
        (
            Both,
            "path \"a\" { capabilities = [\"read\"] }\npath \"/a\" { capabilities = [\"list\"] }",
        ),
        (Both, "path \"\\x61\" { capabilities = [\"\\u0072ead\"] }"),
        (Both, "path \"\\141\\U0000002fb\" { capabilities = [\"read\"] }"),
        (Both, "path \"${a}\" { capabilities = [\"read\"] }"),
        (Both, "path \"${\"a\"}\" { capabilities = [\"read\"] }"),
        (Both, "path \"\\u0024{a}\" { capabilities = [\"read\"] }"),
        (Both, "path \"$a\" { capabilities = [\"read\"] }"),
        (Both, "path \"a\" { comment = <<E\n} path \"b\" {}\nE\n capabilities = [\"read\"] }"),
        (Both, "path \"a\" { comment = <<-E\n x\n E\n capabilities = [\"read\"] }"),
        (Both, "path \"a\" {\r\n capabilities = [\"read\"]\r\n}\r\n"),
        (
            Both,
            "path \"a\" { min_wrapping_ttl = 1\n max_wrapping_ttl = \"90s\"\n policy = \"read\" }",
        ),
        (Both, "path \"a\" { allowed_parameters = { \"*\" = [] }\n policy = \"read\" }"),
        (Both, "path \"a\" { required_parameters = [\"x\"]\n policy = \"read\" }"),
        (Both, "path \"é/*\" { capabilities = [\"read\"] }"),
        (Both, "path \"\" { capabilities = [\"read\"] }"),
        (Both, "path \"/\" { capabilities = [\"read\"] }"),
        (Both, "path \"//a\" { capabilities = [\"read\"] }"),
        (Both, "path \"*\" { capabilities = [\"read\"] }"),
        (Both, "path \"a**\" { capabilities = [\"read\"] }"),
        (Both, "path \"a/*/b\" { capabilities = [\"read\"] }"),
        (Both, "path \"+\" { capabilities = [\"read\"] }"),
        (Both, "path \"+/+/+/*\" { capabilities = [\"read\"] }"),
        (Both, "path \"a+/b\" { capabilities = [\"read\"] }"),
        (Both, "path \"a/+b\" { capabilities = [\"read\"] }"),
        (Both, "path \"a/+b*\" { capabilities = [\"read\"] }"),
        (Both, "path \"a+/+/b\" { policy = \"read\" }\n path \"a*\" { policy = \"write\" }"),
        (
            Both,
            "{\"path\": {\"a\": {\"capabilities\": [\"read\"]}, \"b\": {\"policy\": \"write\"}}}",
        ),
        (
            Both,
            " \n {\"path\": [{\"a\": {\"capabilities\": [\"read\"]}}, {\"b\": {\"policy\": \"read\"}}]}",
        ),
        (
            Refused,
            "{\"path\": {\"a\": [{\"capabilities\": [\"read\"]}, {\"capabilities\": [\"list\"]}]}}",
        ),
        (Both, "{\"path\": {\"a\": {\"capabilities\": [\"read\"], \"capabilities\": [\"list\"]}}}"),
        (
            Both,
            "{\"path\": {\"a\": {\"policy\": \"read\"}}, \"path\": {\"b\": {\"policy\": \"write\"}}}",
        ),
        (Both, "{\"path\": {\"a\": {\"policy\": \"read\"}, \"a\": {\"policy\": \"write\"}}}"),
        (Both, "{\"path\": {\"capabilities\": [\"read\"]}}"),
        (Both, "{\"path\": {\"a\": {}}, \"name\": \"x\"}"),
        (Both, "{\"path\": {\"a\": {\"capabilities\": [true, \"read\"]}}}"),
        (Both, "{\"path\": {\"\\u0061/\\\"\": {\"capabilities\": [\"read\"]}}}"),
        (Both, "{\"path\": {\"${a\": {\"capabilities\": [\"read\"]}}}"),
        (Both, "{}"),
        (Refused, "path \"a\" { capabilities = [\"read\"]\n capabilities = [\"list\"] }"),
        (Refused, "path \"a\" { capabilities = [\"Read\"] }"),
        (Refused, "path \"a\" { capabilities = [\"scan\"] }"),
        (Refused, "path \"a\" { capabilities = [\"root\"] }"),
        (Refused, "path \"a\" { capabilities = \"read\" }"),
        (Refused, "path \"a\" { capabilities = [[\"read\"]] }"),
        (Refused, "path \"a\" { capabilities = [<<E\nread\nE\n] }"),
        (Refused, "path \"a\" { Capabilities = [\"read\"] }"),
        (Refused, "path \"a\" { pagination_limit = 5 }"),
        (Refused, "path \"a\" { expiration = \"2030-01-01T00:00:00Z\" }"),
        (Refused, "path \"a\" { path = \"b\" }"),
        (Refused, "path \"a\" { policy = \"admin\" }"),
        (Refused, "path \"a\" = { policy = \"read\" }"),
        (Refused, "path = { \"a\" = { policy = \"read\" } }"),
        (Refused, "path = [\"a\"]"),
        (Refused, "Path \"a\" {}"),
        (Refused, "other \"a\" {}"),
        (Refused, "path \"a/+*\" {}"),
        (Refused, "path \"a+*\" {}"),
        (Refused, "path \"{{a\" {}"),
        (Refused, "path \"a}}\" {}"),
        (Refused, "path \"a\\q\" {}"),
        (Refused, "path \"a\nb\" {}"),
        (Refused, "path 'a' {}"),
        (Refused, "path \"a\" {"),
        (Refused, "path \"a\" } "),
        (Refused, "\u{feff}path \"a\" {}"),
        (Refused, "{\"path\": {\"a\": {\"capabilities\": \"read\"}}}"),
        (Refused, "{\"path\": {\"a\": {\"capabilities\": null}}}"),
        (OnlyVault, "path \"a\" { policy = \"read\" }\nname ="),
        (OnlyVault, "{\"path\": {\"a\": {\"policy\": \"read\"}}} and more"),
        (OnlyVault, "{\"path\": {\"a\": {\"policy\": \"read\"}}"),
        (OnlyVault, "path \"a\" { comment = 0x10\n policy = \"read\" }"),
        (OnlyVault, "path é { policy = \"read\" }"),
    ];
    let paths: Vec<String> = [
        "a", "a/", "b", "a/b", "a/b/", "path", "x", "é/x", "${a}", "${\"a\"}", "$a", "a*", "a**",
        "a/*/b", "a/x/b", "a+/b", "a+/c/b", "a/+b", "a/+bc", "x/y/z/u", "/", "a/\"", "${a", "é",
    ]
    .map(str::to_owned)
    .into();
    let (mut taken, mut wrong) = (0, Vec::new());
    let count = texts.len();
    for (index, (kind, text)) in texts.into_iter().enumerate() {
        let parsed = Policy::parse(text).ok().filter(|policy| policy.unknown().next().is_none());
        let stored = token(&world, &format!("s{index}"), &[text.to_owned()]).await;
        match (kind, stored, parsed) {
            (Both, Ok(token), Some(parsed)) => {
                let acl = Acl::new(Dialect::Vault, [&parsed]);
                for (path, said) in paths.iter().zip(capabilities(&world, &token, &paths).await) {
                    taken += 1;
                    let decision = acl.decide(path, Operation::List);
                    if decision.at_most.words() != said {
                        wrong.push(format!("{text}\n{path}: Vault {said:?}, we {decision:?}"));
                    }
                }
            }
            (Refused, Err(_), _) | (OnlyVault, Ok(_), None) => {}
            (_, stored, parsed) => {
                let stored = stored.map(|_| "taken");
                wrong.push(format!("{text}\nVault: {stored:?}, we: {parsed:?}"));
            }
        }
    }
    say(&format!("acl: {count} strange texts, {taken} answers, {} differ", wrong.len()));
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n\n"));
}

async fn what_is_isolated_reaches_no_neighbour(world: World) {
    let mount = world.kv_mount();
    let directory = "certs/111/web";
    let mut dice = Dice::new("acl::what_is_isolated_reaches_no_neighbour", SEED_VARIABLE, SEED);
    let default = world.vault_policy("default").await.expect("the policy `default`");
    let verdict = |texts: &[String]| {
        let names: Vec<String> = (0..texts.len()).map(|index| format!("p{index}")).collect();
        let policies: Vec<InForce<'_>> = names
            .iter()
            .zip(texts)
            .map(|(name, text)| InForce { name, text: Text::Known(text) })
            .collect();
        isolation::judge(&Question {
            mount: &mount,
            directory,
            policies: &policies,
            identity_is_known: true,
            extras: &[],
            mounts: None,
        })
    };
    let stock = verdict(std::slice::from_ref(&default));
    assert_eq!(stock.reason, Reason::Isolated, "the policy `default`: {stock}");
    let (mut isolated, mut asked, mut broken, mut caught) = (0, 0, 0, 0);
    let mut wrong = Vec::new();
    for set in 0..JUDGED {
        let mut texts = confined(&mut dice, &mount, directory);
        if dice.once_in(4) {
            texts.push(default.clone());
        }
        let verdict = verdict(&texts);
        let parsed: Vec<Policy> =
            texts.iter().map(|text| Policy::parse(text).expect("a policy")).collect();
        let mut paths = BTreeSet::new();
        for _ in 0..NEIGHBOURS {
            let path = neighbour(&mut dice, &parsed, &mount);
            if is_foreign(&path, &mount, directory) {
                paths.insert(path);
            }
        }
        let paths: Vec<String> = paths.into_iter().collect();
        let token = token(&world, &format!("i{set}"), &texts).await;
        let token = token.unwrap_or_else(|error| panic!("Vault refuses {error}:\n{texts:#?}"));
        let reached: Vec<String> = paths
            .iter()
            .zip(capabilities(&world, &token, &paths).await)
            .filter(|(_, said)| *said != ["deny"])
            .map(|(path, said)| format!("{path}: {said:?}"))
            .collect();
        match verdict.isolated() {
            Some(true) => {
                isolated += 1;
                asked += paths.len();
                if !reached.is_empty() {
                    wrong.push(format!("{reached:#?}\n{texts:#?}"));
                }
            }
            Some(false) => {
                broken += 1;
                caught += usize::from(!reached.is_empty());
            }
            None => panic!("{verdict}:\n{texts:#?}"),
        }
    }
    say(&format!(
        "acl: {isolated} sets of policies are isolated, {asked} paths of neighbours asked, {} \
         allowed; {broken} are not isolated, and {caught} of these reach a neighbour",
        wrong.len()
    ));
    assert!(wrong.is_empty(), "{} reach a neighbour, for example\n{}", wrong.len(), wrong[0]);
    assert!(isolated >= 100 && broken >= 100, "{isolated} {broken}");
    // Else the paths that are tried would say nothing.
    assert!(caught * 3 > broken, "{caught} of {broken}");
}

/// Policies of which many keep to the directory, or almost.
fn confined(dice: &mut Dice, mount: &str, directory: &str) -> Vec<String> {
    let mut texts = Vec::new();
    for _ in 0..=dice.below(2) {
        let mut text = String::new();
        for _ in 0..1 + dice.below(3) {
            let operation = dice.pick(&["data", "metadata", "subkeys", "destroy", "+"]);
            let own = format!("{mount}/{operation}/{directory}");
            let path = match dice.below(40) {
                0 => format!("{own}*"),
                1 => format!("{mount}/metadata/{directory}"),
                2 => format!("{mount}/{operation}/certs/111/+/*"),
                3 => format!("{mount}/{operation}/certs/+/web/x"),
                4 => format!("+/{operation}/{directory}/*"),
                5 => "sys/tools/hash/*".to_owned(),
                6 => dice.pick(&["*", "+/*", "sys/*", "auth/token/*", "identity/+/x"]).to_owned(),
                7 => pattern(dice, mount),
                8..=12 => pattern(dice, "elsewhere"),
                13..=16 => format!("{own}/+/{}", dice.pick(&["x", "*", "+", "x*"])),
                17..=20 => format!("{own}/{}", dice.pick(&["", "x", "x*", "+", "a/b/*"])),
                _ => format!("{own}/*"),
            };
            let words = words(dice).replace("sudo", "read");
            let _ = writeln!(text, "path \"{path}\" {{ {words} }}");
            // Denials that may clear the rule, or seem to.
            if dice.once_in(10) {
                let denied = match dice.below(4) {
                    0 => path,
                    1 => format!("{mount}/*"),
                    2 => format!("{mount}*"),
                    _ => format!("{mount}/{operation}/certs/*"),
                };
                let _ = writeln!(text, "path \"{denied}\" {{ capabilities = [\"deny\"] }}");
            }
        }
        texts.push(text);
    }
    texts
}

/// A path that may be a neighbour's.
fn neighbour(dice: &mut Dice, policies: &[Policy], mount: &str) -> String {
    const OTHERS: [&str; 10] = [
        "sys/policies/acl/x",
        "sys/mounts",
        "sys",
        "sys/",
        "auth/token/create",
        "auth/aws/role/x",
        "identity/entity/id",
        "identity/",
        "sys/auth",
        "identity/x/x",
    ];
    match dice.below(10) {
        0 => dice.pick(&OTHERS).to_owned(),
        1 => format!("{mount}/config"),
        2 => format!("{mount}{}", dice.pick(&["", "/", "/data", "/metadata/", "/metadata/certs/"])),
        _ => near(dice, policies, mount),
    }
}

/// Whether a path is protected, and not the role's own, and not everybody's.
fn is_foreign(path: &str, mount: &str, directory: &str) -> bool {
    const EVERYBODYS: [&str; 12] = [
        "auth/token/lookup-self",
        "auth/token/renew-self",
        "auth/token/revoke-self",
        "sys/capabilities-self",
        "sys/internal/ui/resultant-acl",
        "sys/renew",
        "sys/leases/",
        "sys/wrapping/",
        "sys/tools/hash",
        "sys/control-group/request",
        "identity/entity/",
        "identity/oidc/provider/",
    ];
    let path = path.trim_start_matches('/');
    let in_mount = |mount: &str| {
        path == mount || path.strip_prefix(mount).is_some_and(|rest| rest.starts_with('/'))
    };
    let is_protected = ["sys", "auth", "identity", mount].into_iter().any(in_mount);
    let is_everybodys = EVERYBODYS.iter().any(|known| path.starts_with(known));
    let entry = path.strip_prefix(mount).and_then(|rest| rest.strip_prefix('/'));
    let entry = entry.and_then(|rest| rest.split_once('/'));
    let is_own = entry.is_some_and(|(operation, entry)| {
        entry
            .strip_prefix(directory)
            .is_some_and(|rest| rest.starts_with('/') || rest.is_empty() && operation == "metadata")
    });
    is_protected && !is_everybodys && !is_own
}

/// Waits until the new KV mount takes writes.
async fn writable(world: &World) {
    let path = format!("{}/data/ready", world.kv_mount());
    world
        .eventually("a new KV mount to be writable", PATIENCE, async || {
            let body = json!({"data": {}});
            let (status, _): (u16, Value) = world.vault().post(&path, &body).await.expect("Vault");
            (status == 200).then_some(())
        })
        .await;
}
