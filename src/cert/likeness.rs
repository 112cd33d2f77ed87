//! What most objects that the syncer keeps look like: what an object has in common with its likeness
//! takes hardly any room in memory.
//!
//! A likeness that is out of date costs room and nothing else.

use crate::controller::watch::Form;

/// A VaultCertSync with one certificate, delivered.
pub const SYNC: Form = Form::Packed {
    like: concat!(
        r#"{"apiVersion":"vaultaws.dev/v1alpha1","kind":"VaultCertSync","metadata":{"generation":1,"#,
        r#""name":"web","namespace":"team-a","resourceVersion":"1000","#,
        r#""uid":"00000000-0000-4000-8000-000000000000"},"#,
        r#""spec":{"roleRef":{"name":"web"},"identity":{},"#,
        r#""certificates":{"include":["*"],"recursive":false,"limit":100},"#,
        r#""target":{"secretName":"{name}-{certificate}","type":"kubernetes.io/tls","#,
        r#""deletionPolicy":"Delete","adopt":false,"onSourceRemoved":"Keep"},"#,
        r#""validation":{"expired":"Refuse","minimumRemaining":"0s","requireChain":false,"#,
        r#""allowCaLeaf":false},"refreshInterval":"1h","suspend":false},"#,
        r#""status":{"observedGeneration":1,"conditions":[{"lastTransitionTime":"2026-01-01T00:00:00Z","#,
        r#""message":"1 certificate delivered","observedGeneration":1,"reason":"Synced","#,
        r#""status":"True","type":"Ready"},{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"","#,
        r#""observedGeneration":1,"reason":"NotExpiring","status":"False","type":"Expiring"},"#,
        r#"{"lastTransitionTime":"2026-01-01T00:00:00Z","message":"","observedGeneration":1,"#,
        r#""reason":"Fresh","status":"False","type":"Stale"}],"accountId":"123456789012","#,
        r#""iamRole":"web","vaultRole":"web","summary":"1/1","nextExpiry":"2026-01-01T00:00:00Z","#,
        r#""lastSyncedTime":"2026-01-01T00:00:00Z","certificates":[{"name":"tls","#,
        r#""secretName":"web-tls","state":"Synced","version":1,"#,
        r#""createdTime":"2026-01-01T00:00:00.000000000Z","secretResourceVersion":"1000","#,
        r#""serial":"00","sha256":"00","issuer":"CN=","dnsNames":["www.example.com"],"dnsNamesTotal":1,"#,
        r#""notBefore":"2026-01-01T00:00:00Z","notAfter":"2026-01-01T00:00:00Z","shape":"00"}]}}"#,
    ),
};

/// A Secret of a VaultCertSync, as [`super::secrets::prune`] leaves it.
pub const SECRET: Form = Form::Packed {
    like: concat!(
        r#"{"metadata":{"name":"web-tls","namespace":"team-a","#,
        r#""ownerReferences":[{"apiVersion":"vaultaws.dev/v1alpha1","blockOwnerDeletion":true,"#,
        r#""controller":true,"kind":"VaultCertSync","name":"web","#,
        r#""uid":"00000000-0000-4000-8000-000000000000"}],"resourceVersion":"1000","#,
        r#""uid":"00000000-0000-4000-8000-000000000000"}}"#,
    ),
};

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Secret;
    use kube::core::PartialObjectMeta;
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::{
        controller::watch::{Kind, Store, object_ref},
        crd::VaultCertSync,
    };

    fn like(form: Form) -> &'static str {
        match form {
            Form::Packed { like } => like,
            Form::Typed => panic!("it is packed"),
        }
    }

    fn read<K: DeserializeOwned>(form: Form) -> K {
        serde_json::from_str(like(form)).expect("a likeness can be read")
    }

    #[test]
    fn a_likeness_is_an_object_as_it_would_be_written() {
        let sync: VaultCertSync = read(SYNC);
        assert_eq!(serde_json::to_string(&sync).unwrap(), like(SYNC));
        let secret: PartialObjectMeta<Secret> = read(SECRET);
        assert_eq!(serde_json::to_string(&secret).unwrap(), like(SECRET));
    }

    #[test]
    fn what_is_kept_of_an_object_takes_a_small_part_of_its_text_and_comes_back_whole() {
        fn kept<K: Kind + PartialEq>(form: Form, object: K, part: usize) {
            let text = serde_json::to_string(&object).unwrap();
            let store = Store::new(form);
            let object = Arc::new(object);
            assert!(store.put(&object_ref(Some("n"), "a"), &object).is_ok());
            assert!(store.room() * part < text.len(), "{} of {}", store.room(), text.len());
            assert!(store.get(Some("n"), "a").as_deref() == Some(&*object));
        }
        let digits = |from: usize, count: usize| -> String {
            (from..from + count).map(|at| format!("{:x}", (at * at * 7 + at) % 16)).collect()
        };
        let mut sync: VaultCertSync = read(SYNC);
        sync.metadata.name = Some("api-gateway".to_owned());
        sync.metadata.namespace = Some("payments".to_owned());
        sync.metadata.uid = Some(digits(3, 36));
        sync.metadata.resource_version = Some("98765432".to_owned());
        let status = sync.status.as_mut().unwrap();
        status.last_synced_time = Some("2027-03-04T05:06:07Z".to_owned());
        status.certificates[0].sha256 = Some(digits(40, 64));
        status.certificates[0].serial = Some(digits(9, 40));
        status.certificates[0].issuer = Some("CN=Example CA, O=Example".to_owned());
        kept(SYNC, sync, 3);
    }
}
