# Vault policy of the role writer: what it needs every day.
# For auth mount aws (Observed), KV mount secret, policies vaultaws-*.
#
# What it does not bound: whoever may write policies and attach them to roles can give himself anything
# in this Vault namespace. The prefix only keeps other policies from being overwritten. Real bounds are
# a Vault namespace of its own, a Sentinel policy, or a Vault of its own.

# Roles. A role may carry our policies only, and what tenancy's additionalPolicies name. Vault matches
# each element of a JSON list against allowed_parameters, but a comma-separated string as one text: *,*
# refuses that spelling. `policies` is the old name of `token_policies`.
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
  capabilities = ["read", "update", "delete"]
}

# Its own, out of reach whatever other policy the token carries: deny wins.
path "sys/policies/acl/vault-aws-operator" {
  capabilities = ["deny"]
}

# Is the auth mount there, and of type aws? This lists the auth mounts; it changes none.
path "sys/auth" {
  capabilities = ["read"]
}

# What else a login of a role carries, so that its isolation can be judged: Vault's policy `default`, read
# and never written, whatever other policy the token carries.
path "sys/policies/acl/default" {
  capabilities = ["read"]

  denied_parameters = {
    "*" = []
  }
}

# And the policies that its entity and the groups of that add. A look-up is sent like a write, and changes
# nothing.
path "identity/lookup/entity" {
  capabilities = ["update"]
}

path "identity/group/id/*" {
  capabilities = ["read"]
}

path "auth/aws/config/identity" {
  capabilities = ["read"]
}

# Any right below a mount lets its holder ask sys/internal/ui/mounts which version of KV it is. This one
# reads no certificate.
path "secret/config" {
  capabilities = ["read"]
}

# The operator's own token is renewed, and given back at the end. Vault's policy `default` grants the
# same; here for tokens without it.
path "auth/token/renew-self" {
  capabilities = ["update"]
}

path "auth/token/revoke-self" {
  capabilities = ["update"]
}
