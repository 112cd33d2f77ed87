//! The binary as other programs meet it: arguments, environment, files, stdout, stderr, exit code.
//! No server is needed here; what needs one is in `tests/world`.

mod credential_process;
mod hostile;
mod import;
mod login;
mod plan;
mod policy;
mod program;
