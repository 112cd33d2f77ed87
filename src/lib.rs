//! Declares AWS IAM roles in HashiCorp Vault and delivers their certificates to Kubernetes.

pub mod admin;
pub mod aws;
pub mod backend;
pub mod cert;
pub mod cli;
pub mod clock;
pub mod connection;
pub mod controller;
pub mod crd;
pub mod fault;
pub mod naming;
pub mod redacted;
pub mod role;
pub mod telemetry;
pub mod tenancy;
pub mod vault;
