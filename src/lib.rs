//! Declares AWS IAM roles in HashiCorp Vault, confined to their own certificates, and delivers those
//! certificates as Kubernetes Secrets.
//!
//! # The way of a pass
//!
//! Each kind tells the same story, one file a step; steps in brackets are pure.
//!
//! ```text
//! watch event ─▶ controller ─▶ backend | role | cert
//!    [desired]  resource × what it refers to ─▶ Desired     a bad spec stops here and costs no request
//!    observe    Desired ─▶ Observed                          reads only
//!    [plan]     Desired × Observed × now ─▶ Plan             total, ordered, prints itself; empty = in sync
//!    apply      Plan ─▶ ()                                   writes only, in the plan's order, safe to repeat
//!    [verdict]  what was found ─▶ conditions, event, delay
//! controller::report ─▶ status, event, metrics               one exit for all of them
//! ```
//!
//! # What each module knows
//!
//! | module | knows |
//! | --- | --- |
//! | [`crd`] | the three kinds, their fields and reasons: the public contract; names nothing else |
//! | [`controller`] | the shell: watches, queue, finalizer, one pass, its report; knows no kind |
//! | [`backend`] | `VaultAwsBackend`: is Vault there, is it what it should be, are the mounts configured |
//! | [`role`] | `VaultAwsRole`: the role and its policy, whose they are, what differs, what a login reaches |
//! | [`cert`] | `VaultCertSync`: entries, pairs, Secrets; what is never replaced by what |
//! | [`tenancy`] | may this namespace use this account and role; pure |
//! | [`safety`] | what a Vault with known defects is not asked for; pure |
//! | [`naming`] | what an IAM role is called in AWS and in Vault; pure |
//! | [`connection`] | from a backend to a Vault client and to the operator's own session |
//! | [`vault`] | the only HTTP to Vault: one file for each API, errors classified once, limiter, sessions |
//! | [`aws`] | the only user of the AWS crates: credentials, AssumeRole, the signed GetCallerIdentity |
//! | [`credentials`] | what `credential-process` keeps between two starts, until when, and what it prints |
//! | [`grants`] | what must be granted in Vault, Kubernetes and AWS, and its text; pure |
//! | [`import`] | what stands in Vault as manifests that change nothing, and what was left there; pure |
//! | [`review`] | what manifests would change in Vault, by the kinds' own judgement, and how that is shown |
//! | [`doctor`] | the way to the certificates, link by link: how each stands, and what cures it |
//! | [`cli`] | flags and commands; `cli::run` composes the operator |
//! | [`leader`] | which replica may write; the fence before every request that changes something |
//! | [`admin`], [`telemetry`] | health, metrics, logs |
//! | [`fault`], [`redacted`], [`clock`], [`files`], `hex`, `lock`, `turns` | leaves: how failure is spoken of, what cannot be printed, what time it is, how files are read, bytes as digits, locks that outlive a panic, lanes that take turns |
//!
//! # Who may name whom
//!
//! `cli` names everything and nothing names `cli`. The kinds name `crd`, `controller`, `connection`,
//! `vault`, `tenancy`, `naming`, and not each other. `controller` knows no kind. `vault` names `aws`.
//! Pure files take values and return values: no client, no `async`, no clock, no log.
//!
//! # Where a line belongs
//!
//! | a line that… | lives in |
//! | --- | --- |
//! | names a path or a JSON field of Vault | `vault/<api>.rs` |
//! | decides whether something must change | `plan.rs` of its kind |
//! | rejects a spec | the schema in `crd`, else `desired.rs` |
//! | decides when to try again | the error's [`fault::Retry`]; the delay is `controller::schedule`'s |
//! | sets a condition or sends an event | `controller::report`, from verdicts |
//! | explains a field to a user | its doc comment in `crd` (`kubectl explain`) |

pub mod admin;
pub mod aws;
pub mod backend;
pub mod cert;
pub mod cli;
pub mod clock;
pub mod connection;
pub mod controller;
pub mod crd;
pub mod credentials;
pub mod doctor;
pub mod fault;
pub mod files;
pub mod grants;
mod hex;
pub mod import;
pub mod leader;
mod lock;
pub mod naming;
pub mod redacted;
pub mod review;
pub mod role;
pub mod safety;
pub mod telemetry;
pub mod tenancy;
mod turns;
pub mod vault;
