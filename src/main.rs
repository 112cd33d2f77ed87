//! The binary.
fn main() {
    use std::io::Write as _;
    let _ =
        std::io::stdout().write_all(vault_aws_operator::crd::yaml().unwrap_or_default().as_bytes());
}
