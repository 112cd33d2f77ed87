//! Whatever answers in STS's place, to the operator or to Vault: it is told by its reason, it keeps nobody's
//! Secret from standing, it gets nothing that is secret into what the operator says, and when STS is back
//! all goes on.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use vault_aws_lab::{Keys, Reply, StsFront};

use crate::{
    certificates::{Authority, Issued},
    identities::{by_service_account, grant_tokens, irsa, service_account},
    manifest::Manifest,
    stage::say,
    world::{ACCOUNT, OTHER_ACCOUNT, PATIENCE, World},
};

/// How long each of these tests may take: each gives a dozen answers, and waits for what becomes of
/// every one of them.
pub(crate) const LIMIT: Duration = Duration::from_secs(450);

tests![
    what_is_no_answer_to_an_assumed_role_is_told_and_loses_nothing,
    a_wrong_answer_to_an_assumed_role_is_told_and_loses_nothing,
    what_is_no_answer_to_a_web_identity_is_told_and_loses_nothing,
    a_wrong_answer_to_a_web_identity_is_told_and_loses_nothing,
    what_is_no_answer_to_vault_about_a_caller_is_told_and_loses_nothing,
    a_wrong_answer_to_vault_about_a_caller_is_told_and_loses_nothing,
];

/// The most that a condition says, whatever was answered.
const LONGEST: usize = 1024;

/// A delivered certificate, and an STS of its own to which the operator and Vault both go.
struct Astray {
    world: World,
    sts: StsFront,
    /// Where redirects lead; nobody may come.
    elsewhere: StsFront,
    issued: Issued,
    secret: Secret,
    pids: [Option<u32>; 2],
    /// How many syncs there were, each with sessions of its own.
    syncs: usize,
}

/// An answer and what is to be said of it.
type Case = (&'static str, Reply, &'static str);

impl Astray {
    async fn new(world: &World) -> Self {
        let lab = &world.stage.lab;
        let sts = lab.another_sts().await.expect("an STS");
        let elsewhere = lab.another_sts().await.expect("another STS");
        let issued = Authority::new("World CA").issue("web.example.com");
        world.put_certificate("web", "tls", &issued).await;
        backend(world, &sts).apply().await;
        world.role("web").apply().await;
        world.sync("web").with("spec.refreshInterval", "10s").apply().await;
        for object in [world.backend_ref().as_str(), "vaultawsrole/web", "vaultcertsync/web"] {
            world.ready(object).await;
        }
        let secret = world.delivered("web-tls", &issued).await;
        let pids = world.stage.operators().map(|operator| operator.pid());
        let world = world.clone();
        Self { world, sts, elsewhere, issued, secret, pids, syncs: 0 }
    }

    /// Another generation of the backend is another session for everybody.
    async fn forget_sessions(&self) {
        let backend = backend(&self.world, &self.sts);
        backend.with("spec.vault.rateLimit.burst", 100 + self.syncs).apply().await;
        self.world.ready(&self.world.backend_ref()).await;
    }

    /// A sync that cannot have a session says the reason; then STS answers as it should, and it has one.
    async fn tells(&mut self, what: &str, reason: &str, sync: impl Fn(&World, &str) -> Manifest) {
        let world = self.world.clone();
        self.syncs += 1;
        self.forget_sessions().await;
        let name = format!("s{}", self.syncs);
        let object = format!("vaultcertsync/{name}");
        sync(&world, &name).apply().await;
        let ready = world
            .eventually(&format!("{what}: {object} to say {reason}"), PATIENCE, async || {
                let ready = world.condition(&object, "Ready").await?;
                (ready.status == "False" && ready.reason == reason).then_some(ready)
            })
            .await;
        let said = &ready.message;
        say(&format!("{what}: {reason}: {said}"));
        assert!(said.len() <= LONGEST, "{what}: {} bytes", said.len());
        assert!(!said.contains('<') && !said.contains("Credential="), "{what}: {said}");
        assert_eq!(world.secret(&format!("{name}-tls")).await, None, "{what}");
        assert_eq!(world.secret("web-tls").await.as_ref(), Some(&self.secret), "{what}");
        self.sts.answer_normally();
        world.refresh(&name).await;
        world.ready(&object).await;
    }

    /// Nobody went where a redirect led, nothing died, and by itself all is as before.
    async fn goes_on(self) {
        let Self { world, sts, elsewhere, issued, secret, pids, .. } = self;
        assert!(elsewhere.requests().is_empty(), "{:?}", elsewhere.requests());
        sts.answer(Reply::always(503, "down"));
        backend(&world, &sts).with("spec.vault.rateLimit.burst", 99).apply().await;
        // Until then a sync may have a session of before.
        world.ready(&world.backend_ref()).await;
        let late = world.sync("late").with("spec.roleRef.name", "web");
        late.apply().await;
        world.becomes("vaultcertsync/late", "Ready", "False", "StsUnreachable").await;
        sts.answer_normally();
        let back = Instant::now();
        world.delivered("late-tls", &issued).await;
        world.ready("vaultcertsync/late").await;
        say(&format!("STS is back: recovered after {:.1} s", back.elapsed().as_secs_f64()));
        assert_eq!(world.secret("web-tls").await, Some(secret));
        assert_eq!(world.stage.operators().map(|operator| operator.pid()), pids);
        let memory: Vec<_> = world.stage.operators().map(|operator| operator.rss_kib()).into();
        say(&format!("RSS afterwards {memory:?} KiB"));
    }
}

fn backend(world: &World, sts: &StsFront) -> Manifest {
    let backend = world.backend().with("spec.auth.client.stsEndpoint", sts.url());
    backend.with("spec.aws.stsEndpoint", sts.url())
}

fn by_role(world: &World, name: &str) -> Manifest {
    world.sync(name).with("spec.roleRef.name", "web")
}

fn xml(status: u16, body: impl Into<Vec<u8>>) -> Reply {
    Reply::always(status, body).with("content-type", "text/xml")
}

const NAMESPACE: &str = "xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"";

/// What is no answer of STS at all.
fn nonsense(elsewhere: &StsFront) -> Vec<(&'static str, Reply)> {
    let page = "<html><body>no upstream</body></html>";
    let deep = "<a>".repeat(100_000) + &"</a>".repeat(100_000);
    let bomb = "<?xml version=\"1.0\"?><!DOCTYPE x [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \
                \"&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;\"><!ENTITY c \"&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;\">]>\
                <x>&c;&c;&c;&c;&c;&c;&c;&c;</x>";
    let location = format!("{}/", elsewhere.url());
    vec![
        ("nothing", xml(200, "")),
        ("truncated XML", xml(200, format!("<AssumeRoleResponse {NAMESPACE}><AssumeRoleRes"))),
        ("not XML", xml(200, "hello")),
        ("a page", Reply::always(200, page).with("content-type", "text/html")),
        ("JSON", Reply::always(200, "{\"a\":1}")),
        ("deeply nested XML", xml(200, deep)),
        ("entities of entities", xml(200, bomb)),
        ("too much", xml(200, "x".repeat(8 << 20))),
        ("a redirect", xml(302, page).with("location", location.clone())),
        ("a redirect that keeps the method", xml(307, "").with("location", location)),
        ("a page of a proxy", Reply::always(502, page).with("content-type", "text/html")),
        ("a page that forbids", xml(403, page)),
        ("a teapot", xml(418, "")),
    ]
}

/// A good document that says something else.
fn assumed(action: &str, keys: &Keys, end: &str) -> Reply {
    let token = keys.session_token.as_deref().unwrap_or_default();
    xml(
        200,
        format!(
            "<{action}Response {NAMESPACE}><{action}Result><AssumedRoleUser><AssumedRoleId>AROA:x\
             </AssumedRoleId><Arn>arn:aws:sts::{ACCOUNT}:assumed-role/x/x</Arn></AssumedRoleUser>\
             <Credentials><AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey>\
             <SessionToken>{token}</SessionToken><Expiration>{end}</Expiration></Credentials>\
             </{action}Result><ResponseMetadata><RequestId>0-1</RequestId></ResponseMetadata>\
             </{action}Response>",
            keys.access_key, keys.secret_key
        ),
    )
}

fn error(status: u16, code: &str, message: &str) -> Reply {
    xml(
        status,
        format!(
            "<ErrorResponse {NAMESPACE}><Error><Type>Sender</Type><Code>{code}</Code>\
             <Message>{message}</Message></Error><RequestId>0-1</RequestId></ErrorResponse>"
        ),
    )
}

/// Good documents with the wrong content, for an exchange that gives credentials.
async fn wrong(world: &World, action: &'static str) -> Vec<Case> {
    const LATER: &str = "2099-01-01T00:00:00Z";
    world.create_iam_role(ACCOUNT, "other").await;
    world.create_iam_role(OTHER_ACCOUNT, "web").await;
    let (other, abroad) =
        (world.assume(ACCOUNT, "other").await, world.assume(OTHER_ACCOUNT, "web").await);
    let made_up = Keys {
        access_key: "ASIAMADEUPBYNOBODY00".to_owned(),
        secret_key: "a secret key that nobody made".to_owned(),
        session_token: Some("a session token that nobody made".to_owned()),
    };
    let empty = Keys { access_key: String::new(), secret_key: String::new(), session_token: None };
    let without = format!("<{action}Response {NAMESPACE}><{action}Result/></{action}Response>");
    vec![
        ("an error with status 200", error(200, "AccessDenied", "no"), "StsUnreachable"),
        ("no credentials", xml(200, without), "AwsError"),
        ("empty credentials", assumed(action, &empty, LATER), "AwsError"),
        ("a time that is none", assumed(action, &made_up, "soon"), "StsUnreachable"),
        (
            "credentials that are over",
            assumed(action, &made_up, "2020-01-01T00:00:00Z"),
            "AwsError",
        ),
        (
            "credentials that AWS does not know",
            assumed(action, &made_up, LATER),
            "AwsCredentialsRefused",
        ),
        ("credentials of another role", assumed(action, &other, LATER), "LoginDenied"),
        ("credentials of another account", assumed(action, &abroad, LATER), "LoginDenied"),
        ("an unknown error", error(400, "Whatever", "so it is"), "AwsError"),
    ]
}

async fn what_is_no_answer_to_an_assumed_role_is_told_and_loses_nothing(world: World) {
    let mut astray = Astray::new(&world).await;
    for (what, reply) in nonsense(&astray.elsewhere) {
        astray.sts.answer(reply.about("AssumeRole"));
        astray.tells(what, "StsUnreachable", by_role).await;
    }
    astray.goes_on().await;
}

async fn a_wrong_answer_to_an_assumed_role_is_told_and_loses_nothing(world: World) {
    let mut astray = Astray::new(&world).await;
    for (what, reply, reason) in wrong(&world, "AssumeRole").await {
        astray.sts.answer(reply.about("AssumeRole"));
        astray.tells(what, reason, by_role).await;
    }
    for status in [400, 200] {
        astray.sts.echo("AssumeRole", status).expect("a status");
        astray.tells("the request itself", "StsUnreachable", by_role).await;
    }
    astray.goes_on().await;
}

/// By a token of the ServiceAccount `certs`.
fn by_token(world: &World, name: &str) -> Manifest {
    by_service_account(world, name).with("spec.roleRef.name", "irsa")
}

const WEB_IDENTITY: &str = "AssumeRoleWithWebIdentity";

/// The same with a role for the ServiceAccount, and its certificate.
async fn with_token(world: &World) -> Astray {
    let astray = Astray::new(world).await;
    irsa(world, "sts.amazonaws.com").await;
    grant_tokens(world).await;
    service_account(world, Some("*")).await;
    world.role("irsa").apply().await;
    world.ready("vaultawsrole/irsa").await;
    astray
}

async fn what_is_no_answer_to_a_web_identity_is_told_and_loses_nothing(world: World) {
    let mut astray = with_token(&world).await;
    for (what, reply) in nonsense(&astray.elsewhere) {
        astray.sts.answer(reply.about(WEB_IDENTITY));
        astray.tells(what, "StsUnreachable", by_token).await;
    }
    astray.goes_on().await;
}

async fn a_wrong_answer_to_a_web_identity_is_told_and_loses_nothing(world: World) {
    let mut astray = with_token(&world).await;
    for (what, reply, reason) in wrong(&world, WEB_IDENTITY).await {
        astray.sts.answer(reply.about(WEB_IDENTITY));
        astray.tells(what, reason, by_token).await;
    }
    // With the token of the ServiceAccount in it.
    astray.sts.echo(WEB_IDENTITY, 400).expect("a status");
    astray.tells("the request itself", "StsUnreachable", by_token).await;
    astray.goes_on().await;
}

/// What STS says of a caller.
fn caller(arn: &str, account: &str) -> Reply {
    xml(
        200,
        format!(
            "<GetCallerIdentityResponse {NAMESPACE}><GetCallerIdentityResult><Arn>{arn}</Arn>\
             <UserId>AROA:x</UserId><Account>{account}</Account></GetCallerIdentityResult>\
             <ResponseMetadata><RequestId>0-1</RequestId></ResponseMetadata>\
             </GetCallerIdentityResponse>"
        ),
    )
}

const CALLER: &str = "GetCallerIdentity";

async fn what_is_no_answer_to_vault_about_a_caller_is_told_and_loses_nothing(world: World) {
    let mut astray = Astray::new(&world).await;
    for (what, reply) in nonsense(&astray.elsewhere) {
        astray.sts.answer(reply.about(CALLER));
        astray.tells(what, "StsUnreachable", by_role).await;
    }
    astray.goes_on().await;
}

async fn a_wrong_answer_to_vault_about_a_caller_is_told_and_loses_nothing(world: World) {
    let mut astray = Astray::new(&world).await;
    let role = world.iam_role("web");
    let session =
        |account: &str, role: &str| format!("arn:aws:sts::{account}:assumed-role/{role}/x");
    let user = format!("arn:aws:iam::{ACCOUNT}:user/{role}");
    let root = format!("arn:aws:iam::{ACCOUNT}:root");
    for (what, reply, reason) in [
        ("an error with status 200", error(200, "AccessDenied", "no"), "StsUnreachable"),
        ("another role", caller(&session(ACCOUNT, "other"), ACCOUNT), "LoginDenied"),
        ("another account", caller(&session(OTHER_ACCOUNT, &role), OTHER_ACCOUNT), "LoginDenied"),
        ("a user", caller(&user, ACCOUNT), "LoginDenied"),
        ("the root of the account", caller(&root, ACCOUNT), "VaultRefused"),
        ("no ARN", caller("", ACCOUNT), "VaultRefused"),
        ("an ARN that is none", caller("hello", ACCOUNT), "VaultRefused"),
        ("an unknown error", error(400, "Whatever", "so it is"), "VaultRefused"),
        (
            "credentials that are over",
            error(403, "ExpiredToken", "The security token included in the request is expired"),
            "AwsCredentialsRefused",
        ),
    ] {
        astray.sts.answer(reply.about(CALLER));
        astray.tells(what, reason, by_role).await;
    }
    for status in [403, 200] {
        // With the session token in it.
        astray.sts.echo(CALLER, status).expect("a status");
        astray.tells("the request itself", "StsUnreachable", by_role).await;
    }
    astray.goes_on().await;
}
