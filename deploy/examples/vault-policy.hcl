# Vault policy of the role writer, for `management: Observed` (the default) and the default names: auth
# mount `aws`, KV mount `secret`, naming.policy `vaultaws-{role}-policy`.
#
#   vault policy write vault-aws-operator deploy/examples/vault-policy.hcl
#
# What it does not bound: whoever may write policies and attach them to roles can give himself anything
# in this Vault namespace. The prefix only keeps other policies from being overwritten. Real bounds are
# a Vault namespace of its own, a Sentinel policy, or a Vault of its own.

# Roles. A role may carry our policies only. Vault matches each element of a JSON list against
# allowed_parameters, but a comma-separated string as one text: *,* refuses that spelling.
# `policies` is the old name of `token_policies`. Policies that tenancy rules grant as additionalPolicies
# have to be listed here too, and to be readable below.
path "auth/aws/role/*" {
  capabilities = ["create", "read", "update", "delete"]

  allowed_parameters = {
    "token_policies" = ["vaultaws-*"]
    "*"              = []
  }

  denied_parameters = {
    "policies"       = []
    "token_policies" = ["*,*"]
  }
}

# The policies of those roles, by their prefix.
path "sys/policies/acl/vaultaws-*" {
  capabilities = ["create", "read", "update", "delete"]
}

# What else a login of a role carries: Vault's policy `default`, read and never written (an exact rule
# decides before any other policy's wildcard), and the policies that its entity and groups add. Without
# these the condition Isolated of a role is Unknown. None of them changes anything.
path "sys/policies/acl/default" {
  capabilities = ["read"]
}

path "auth/aws/config/identity" {
  capabilities = ["read"]
}

path "identity/lookup/entity" {
  capabilities = ["update"]
}

path "identity/group/id/*" {
  capabilities = ["read"]
}

# Its own policy stays out of reach whatever other policy the token carries: deny wins.
path "sys/policies/acl/vault-aws-operator" {
  capabilities = ["deny"]
}

# Is the auth mount there, and of type aws? This lists the auth mounts; it changes none.
path "sys/auth" {
  capabilities = ["read"]
}

# How logins at the mount are checked: the server ID and the STS endpoint. The secret key is not in the
# answer.
path "auth/aws/config/client" {
  capabilities = ["read"]
}

# Any right below a mount lets its holder ask sys/internal/ui/mounts which version of KV it is. This one
# reads no certificate.
path "secret/config" {
  capabilities = ["read"]
}

# The operator's own token. Vault's policy `default` grants the same; here for tokens without it.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}

path "auth/token/revoke-self" {
  capabilities = ["update"]
}
