//! Tests on real servers: a Kubernetes API server, a Vault and an AWS emulator that know nothing of
//! being tested, and the operator's two processes under exactly the rights of `deploy/`.
//!
//! ```text
//! cargo test --test world                      all
//! cargo test --test world -- delivery::        those of one file
//! cargo test --test world -- --list            their names; starts nothing
//! VAULT_AWS_LAB_KEEP=1 cargo test --test world keeps the folder with all logs
//! ```
//!
//! One lab serves all tests, which run side by side, each in a [`World`](world::World) of its own.
//! Those that stop servers have a second lab, where they run one after another. At the end everything
//! that the operator said, in either lab, is searched for secrets; and after a run of all tests, what it
//! was refused and never used is searched for in the servers' audit logs.

/// Lists the tests of a file for `main`, each a function `async fn name(world: World)`. Those of another
/// stage than the shared one can have a list of their own: `tests![in outage_tests: name, …]`.
macro_rules! tests {
    (in $list:ident: $($name:ident),* $(,)?) => {
        /// Tests of this file.
        pub(crate) fn $list() -> Vec<$crate::trial::Test> {
            vec![$($crate::trial::Test {
                name: concat!(module_path!(), "::", stringify!($name)),
                run: |world| Box::pin($name(world)),
            }),*]
        }
    };
    ($($name:ident),* $(,)?) => {
        tests![in tests: $($name),*];
    };
}

mod accounts;
mod acl;
mod apiserver;
mod backends;
mod certificates;
mod clusters;
mod credential_process;
mod deletion;
mod delivery;
mod dice;
mod doctor;
mod election;
mod entries;
mod faults;
mod grants;
mod hostile_specs;
mod hostile_sts;
mod identities;
mod import;
mod isolation;
mod keys;
mod kills;
mod leaks;
mod limits;
mod login;
mod main_line;
mod managed;
mod manifest;
mod metrics;
mod mounts;
mod order;
mod outages;
mod ownership;
mod plan;
mod principals;
mod refusals;
mod role_fields;
mod rotation;
mod sessions;
mod skew;
mod sources;
mod stage;
mod storms;
mod takeover;
mod targets;
mod trial;
mod validation;
mod witness;
mod world;

use std::{process::ExitCode, sync::Arc};

use libtest_mimic::{Arguments, Trial};
use vault_aws_lab::audit;

use crate::{
    stage::Stages,
    trial::{Place, Test, trials},
};

/// Side by side, on one lab.
fn tests() -> Vec<Test> {
    [
        main_line::tests(),
        managed::tests(),
        order::tests(),
        accounts::tests(),
        backends::tests(),
        ownership::tests(),
        role_fields::tests(),
        principals::tests(),
        takeover::tests(),
        delivery::tests(),
        sources::tests(),
        validation::tests(),
        targets::tests(),
        skew::tests(),
        deletion::tests(),
        identities::tests(),
        sessions::tests(),
        acl::tests(),
        isolation::tests(),
        hostile_specs::tests(),
        entries::tests(),
        faults::tests(),
        limits::tests(),
        mounts::tests(),
        clusters::tests(),
        hostile_sts::tests(),
        keys::tests(),
        refusals::tests(),
        grants::tests(),
        import::tests(),
        credential_process::tests(),
        login::tests(),
        doctor::tests(),
        plan::tests(),
    ]
    .concat()
}

/// One after another, on a lab of their own: they stop and seal servers.
fn outage_tests() -> Vec<Test> {
    [
        outages::tests(),
        clusters::outage_tests(),
        keys::outage_tests(),
        rotation::outage_tests(),
        metrics::outage_tests(),
        election::tests(),
        apiserver::tests(),
        deletion::outage_tests(),
        identities::outage_tests(),
        isolation::outage_tests(),
        sessions::outage_tests(),
        credential_process::outage_tests(),
        doctor::outage_tests(),
        backends::outage_tests(),
        kills::tests(),
        storms::tests(),
    ]
    .concat()
}

/// What looks at the whole run, when it is over.
fn last_trials(arguments: &Arguments, stages: &Arc<Stages>) -> Vec<Trial> {
    let mut trials = vec![leaks::trial(stages)];
    if arguments.filter.is_none() && arguments.skip.is_empty() {
        trials.extend(grants::trials(stages));
    }
    trials
}

fn main() -> ExitCode {
    vault_aws_lab::child_entry();
    trial::remember_panics();
    let mut arguments = Arguments::from_args();
    if arguments.list {
        let stages = Arc::new(Stages::default());
        let names = [tests(), outage_tests()].concat();
        let mut all = trials(names, &stages, Place::Shared);
        all.extend(last_trials(&arguments, &stages));
        return libtest_mimic::run(&arguments, all).exit_code();
    }
    // They wait much more than they compute; more of them would make each other late on two slow cores.
    let threads = arguments.test_threads.unwrap_or(6);
    let stages = Arc::new(Stages::default());
    let mut failed = false;
    let phases: [(usize, Vec<Trial>); 3] = [
        (threads, trials(tests(), &stages, Place::Shared)),
        (1, trials(outage_tests(), &stages, Place::Outage)),
        (1, last_trials(&arguments, &stages)),
    ];
    for (threads, trials) in phases {
        if trials.iter().all(|trial| arguments.is_filtered_out(trial)) {
            continue;
        }
        arguments.test_threads = Some(threads);
        failed |= libtest_mimic::run(&arguments, trials).has_failed();
    }
    failed |= stages.stop().is_err();
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
