# Vault policy of the role writer: what it needs once.
# For auth mount aws (Managed), KV mount secret.
#
# Attach it beside the daily one, and take it away when the backend is Ready. It may enable and tune any
# auth method at this path, and no other.

# Enables the mount.
path "sys/auth/aws" {
  capabilities = ["update", "sudo"]
}
