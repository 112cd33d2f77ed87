//! What an EC2 instance must be like to log in, and whether Vault infers it behind a session. Pure.
//!
//! Vault has these fields on each role, and takes them only where they mean something: on `ec2` roles,
//! and on `iam` roles with inference. Where they mean nothing they are empty, and what is equal is not
//! sent.

use std::collections::BTreeSet;

use crate::{
    crd::{AuthType, VaultAwsRoleSpec},
    vault::aws_auth::{Role, RoleWrite},
};

/// The only thing that Vault infers.
const INSTANCE: &str = "ec2_instance";

/// The binds; all empty on an `iam` role without inference.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Instances {
    /// The region of the inferred instance.
    inferred_region: Option<String>,
    accounts: Vec<String>,
    images: Vec<String>,
    instances: Vec<String>,
    profiles: Vec<String>,
    roles: Vec<String>,
    regions: Vec<String>,
    subnets: Vec<String>,
    networks: Vec<String>,
}

/// Why there are no such binds. The schema refuses them too, unless the object is older.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// The two need each other.
    #[error("with authType iam, ec2 and inference need each other")]
    Inference,
    /// Without a bind each instance of the account could log in.
    #[error("ec2 must have at least one list")]
    Unbound,
    /// Fields that authType ec2 does not take.
    #[error("authType ec2 needs iamRole and takes no principals, inference or resolveAwsUniqueIds")]
    NotForInstances,
    /// Vault refuses it.
    #[error("Vault takes no ec2.regions with inference")]
    Regions,
    /// An ARN of another account could never match.
    #[error("`{0}` is not of the account and partition of the resource")]
    Elsewhere(String),
}

impl Instances {
    /// What the spec says.
    ///
    /// # Errors
    /// [`Fault`] where Vault would refuse it, or let in more than is meant.
    pub fn parse(spec: &VaultAwsRoleSpec) -> Result<Self, Fault> {
        let is_ec2 = spec.auth_type == AuthType::Ec2;
        if is_ec2
            && (spec.iam_role.is_none()
                || spec.inference.is_some()
                || spec.resolve_aws_unique_ids.is_some()
                || !spec.principals.is_empty())
        {
            return Err(Fault::NotForInstances);
        }
        let binds = match (&spec.ec2, &spec.inference) {
            (None, None) if !is_ec2 => return Ok(Self::default()),
            (None, None) => return Err(Fault::Unbound),
            (Some(binds), inference) if is_ec2 || inference.is_some() => binds,
            (Some(_), _) | (None, Some(_)) => return Err(Fault::Inference),
        };
        if !is_ec2 && !binds.regions.is_empty() {
            return Err(Fault::Regions);
        }
        let home = format!("arn:{}:iam::{}:", spec.partition, spec.account_id);
        let arns = binds.iam_role_arns.iter().chain(&binds.instance_profile_arns);
        if let Some(arn) = arns.into_iter().find(|arn| !arn.starts_with(&home)) {
            return Err(Fault::Elsewhere(arn.clone()));
        }
        let found = Self {
            inferred_region: spec.inference.as_ref().map(|inference| inference.region.clone()),
            accounts: vec![spec.account_id.clone()],
            images: binds.ami_ids.clone(),
            instances: binds.instance_ids.clone(),
            profiles: binds.instance_profile_arns.clone(),
            roles: binds.iam_role_arns.clone(),
            regions: binds.regions.clone(),
            subnets: binds.subnet_ids.clone(),
            networks: binds.vpc_ids.clone(),
        };
        let lists = [
            &found.images,
            &found.instances,
            &found.profiles,
            &found.roles,
            &found.regions,
            &found.subnets,
            &found.networks,
        ];
        if lists.iter().all(|list| list.is_empty()) {
            return Err(Fault::Unbound);
        }
        Ok(found)
    }

    /// Puts what differs from the role into the write. `Role::default()` stands for a new role.
    ///
    /// Vault switches inference off only if both of its fields are sent empty, and the binds that need
    /// it with them.
    pub fn change(&self, role: &Role, fields: &mut RoleWrite, changed: &mut Vec<&'static str>) {
        let region = self.inferred_region.as_deref().unwrap_or_default();
        let entity = if region.is_empty() { "" } else { INSTANCE };
        if (role.inferred_entity_type.as_str(), role.inferred_aws_region.as_str())
            != (entity, region)
        {
            fields.inferred_entity_type = Some(entity.to_owned());
            fields.inferred_aws_region = Some(region.to_owned());
            changed.push("inferred_entity_type");
        }
        for (name, want, have, write) in [
            (
                "bound_account_id",
                &self.accounts,
                &role.bound_account_id,
                &mut fields.bound_account_id,
            ),
            ("bound_ami_id", &self.images, &role.bound_ami_id, &mut fields.bound_ami_id),
            (
                "bound_ec2_instance_id",
                &self.instances,
                &role.bound_ec2_instance_id,
                &mut fields.bound_ec2_instance_id,
            ),
            (
                "bound_iam_instance_profile_arn",
                &self.profiles,
                &role.bound_iam_instance_profile_arn,
                &mut fields.bound_iam_instance_profile_arn,
            ),
            (
                "bound_iam_role_arn",
                &self.roles,
                &role.bound_iam_role_arn,
                &mut fields.bound_iam_role_arn,
            ),
            ("bound_region", &self.regions, &role.bound_region, &mut fields.bound_region),
            ("bound_subnet_id", &self.subnets, &role.bound_subnet_id, &mut fields.bound_subnet_id),
            ("bound_vpc_id", &self.networks, &role.bound_vpc_id, &mut fields.bound_vpc_id),
        ] {
            if set(want) != set(have) {
                *write = Some(want.clone());
                changed.push(name);
            }
        }
    }
}

fn set(list: &[String]) -> BTreeSet<&str> {
    list.iter().map(|one| one.trim()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::role::{desired::tests::role as resource, plan::tests::role};

    fn parse(spec: Value) -> Result<Instances, Fault> {
        Instances::parse(&resource("web", spec).spec)
    }

    fn written(spec: Value, in_vault: Value) -> Value {
        let mut fields = RoleWrite::default();
        parse(spec).unwrap().change(&role(in_vault), &mut fields, &mut Vec::new());
        serde_json::to_value(&fields).unwrap()
    }

    fn whole(auth_type: &str) -> Value {
        json!({"authType": auth_type, "ec2": {
            "amiIds": ["ami-1", "ami-2"],
            "vpcIds": ["vpc-1"],
            "subnetIds": ["subnet-1"],
            "iamRoleArns": ["arn:aws:iam::111122223333:role/x/*"],
            "instanceProfileArns": ["arn:aws:iam::111122223333:instance-profile/x"],
            "instanceIds": ["i-1"],
        }})
    }

    fn whole_in_vault() -> Value {
        json!({
            "bound_account_id": ["111122223333"],
            "bound_ami_id": ["ami-2", "ami-1"],
            "bound_vpc_id": ["vpc-1"],
            "bound_subnet_id": ["subnet-1"],
            "bound_iam_role_arn": ["arn:aws:iam::111122223333:role/x/*"],
            "bound_iam_instance_profile_arn": ["arn:aws:iam::111122223333:instance-profile/x"],
            "bound_ec2_instance_id": ["i-1"],
        })
    }

    fn with(mut spec: Value, key: &str, value: Value) -> Value {
        spec[key] = value;
        spec
    }

    #[test]
    fn binds_are_equal_in_any_order() {
        assert_eq!(written(whole("ec2"), whole_in_vault()), json!({}));
        let inferred = with(whole("iam"), "inference", json!({"region": "eu-west-1"}));
        let mut in_vault = with(whole_in_vault(), "inferred_entity_type", json!("ec2_instance"));
        in_vault["inferred_aws_region"] = json!("eu-west-1");
        assert_eq!(written(inferred, in_vault), json!({}));
    }

    #[test]
    fn an_iam_role_without_inference_has_none_of_it() {
        assert_eq!(parse(json!({})), Ok(Instances::default()));
        assert_eq!(written(json!({}), json!({})), json!({}));
    }

    #[test]
    fn the_account_is_always_bound() {
        let spec = json!({"authType": "ec2", "ec2": {"regions": ["eu-west-1"]}});
        assert_eq!(
            written(spec, json!({})),
            json!({"bound_account_id": ["111122223333"], "bound_region": ["eu-west-1"]})
        );
    }

    #[test]
    fn a_bind_that_was_removed_from_the_spec_is_cleared() {
        let spec = json!({"authType": "ec2", "ec2": {"amiIds": ["ami-1"]}});
        let in_vault = json!({
            "bound_account_id": ["111122223333"], "bound_ami_id": ["ami-1"], "bound_vpc_id": ["vpc-1"],
        });
        assert_eq!(written(spec, in_vault), json!({"bound_vpc_id": []}));
    }

    #[test]
    fn what_vault_would_refuse_or_take_too_widely_is_refused() {
        let ec2 = || json!({"authType": "ec2"});
        let ami = || json!({"amiIds": ["ami-1"]});
        let region = || json!({"region": "eu-west-1"});
        for (spec, expected) in [
            (ec2(), Fault::Unbound),
            (with(ec2(), "ec2", json!({})), Fault::Unbound),
            (json!({"ec2": ami()}), Fault::Inference),
            (json!({"inference": region()}), Fault::Inference),
            (json!({"inference": region(), "ec2": {}}), Fault::Unbound),
            (json!({"inference": region(), "ec2": {"regions": ["x"]}}), Fault::Regions),
            (with(with(ec2(), "ec2", ami()), "inference", region()), Fault::NotForInstances),
            (
                with(with(ec2(), "ec2", ami()), "resolveAwsUniqueIds", json!(false)),
                Fault::NotForInstances,
            ),
            (
                with(ec2(), "ec2", json!({"iamRoleArns": ["arn:aws:iam::444455556666:role/x"]})),
                Fault::Elsewhere("arn:aws:iam::444455556666:role/x".into()),
            ),
        ] {
            assert_eq!(parse(spec.clone()), Err(expected), "{spec}");
        }
    }
}
