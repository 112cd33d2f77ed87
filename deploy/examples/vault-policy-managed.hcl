# In addition to vault-policy.hcl, only for `management: Managed`: attach both policies to the operator's
# login.
#
#   vault policy write vault-aws-operator-managed deploy/examples/vault-policy-managed.hcl
#
# Whoever may write config/client chooses the STS endpoint that says who is who: he can log in as anybody
# at this mount. So grant this only where the operator is to own the mount.

# How Vault asks AWS: endpoints, keys, the server ID that each login signs.
path "auth/aws/config/client" {
  capabilities = ["create", "read", "update"]
}

# auth.identity: as which identity Vault knows who logged in.
path "auth/aws/config/identity" {
  capabilities = ["read", "update"]
}

# auth.accounts: the roles that Vault assumes to ask other accounts.
path "auth/aws/config/sts/*" {
  capabilities = ["create", "read", "update"]
}

# auth.defaultLeaseTtl and auth.maxLeaseTtl.
path "sys/mounts/auth/aws/tune" {
  capabilities = ["update"]
}

# Once, to enable the mount; take it away again when the mount is there.
path "sys/auth/aws" {
  capabilities = ["update", "sudo"]
}
