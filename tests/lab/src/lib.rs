//! The lab: real servers on 127.0.0.1 for tests and for people.
//!
//! A [`Lab`] is etcd, kube-apiserver, kube-controller-manager and Vault, unmodified and built from
//! pinned modules, an AWS emulator that checks signatures and trust policies, and a front for its
//! STS that checks what the emulator does not. A test run owns its lab and starts it in its own
//! process; `cargo lab up` starts one that stays. Any number of labs run side by side: each has
//! ports, certificates and a folder of its own. It needs Linux, Go and Python.
//!
//! A binary that starts a lab calls [`child_entry`] first in `main`: servers are started through
//! it, and so cannot outlive their owner.
//!
//! Which knowledge is where: [`toolchain`] how programs are built and cached, `servers` how each
//! is run, `server` how a process is started and stopped, `keeper` why none is left behind,
//! `folder` and `ports` how labs keep apart, [`lab`] in which order all this happens, [`detached`]
//! labs without a test, [`vault`], [`aws`], `kubernetes` and [`sts`] how tests talk to the servers,
//! [`namespaces`] a front of Vault that looks as if it had namespaces,
//! `oidc` whose tokens STS believes, [`vending`] an agent that hands out credentials, [`proxy`]
//! Vault's own proxy, [`front`] the faults of a network, `door` a port that closes and opens,
//! [`installation`] and [`operator`] how the operator is installed and run, `cargo` how it is built,
//! [`audit`] what was asked of the servers; [`demo`] tells its story, [`bench`](mod@bench) measures it.

pub mod audit;
pub mod aws;
pub mod bench;
mod cargo;
mod certificates;
pub mod demo;
pub mod detached;
mod door;
mod error;
mod files;
mod folder;
pub mod front;
pub mod installation;
mod keeper;
mod kubernetes;
pub mod lab;
pub mod namespaces;
mod oidc;
pub mod operator;
mod pki;
mod ports;
pub mod proxy;
mod server;
mod servers;
pub mod sts;
pub mod toolchain;
pub mod vault;
pub mod vending;
mod web;

pub use aws::{Aws, Keys, Seeds, TrustPolicy, User};
pub use error::{Error, Result};
pub use folder::{Owner, Seen, SeenServer, find, is_alive, list};
pub use front::{Fault, Front, FrontRequest, Reply};
pub use installation::Installation;
pub use keeper::child_entry;
pub use lab::{Lab, Options, OtherVault, Parts};
pub use namespaces::{NamespaceFront, NamespacedRequest};
pub use operator::{Component, Operator};
pub use proxy::VaultProxy;
pub use server::Server;
pub use sts::{StsFront, StsRequest, Treatment};
pub use toolchain::Toolchain;
pub use vault::Vault;
pub use vending::Vending;
