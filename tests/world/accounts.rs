//! Two accounts may have roles of one name: each gets its own certificates and never the other's.

use serde_json::json;

use crate::{
    certificates::Authority,
    world::{ACCOUNT, OTHER_ACCOUNT, World, text},
};

tests![
    roles_of_one_name_in_two_accounts_stay_apart,
    a_role_name_without_the_account_is_refused_for_two_accounts,
];

async fn roles_of_one_name_in_two_accounts_stay_apart(world: World) {
    world.create_iam_role(OTHER_ACCOUNT, "web").await;
    let authority = Authority::new("World CA");
    let mut issued = Vec::new();
    for account in [ACCOUNT, OTHER_ACCOUNT] {
        let one = authority.issue("web.example.com");
        let fields = json!({"certificate": one.certificate, "private_key": one.key});
        world.put_entry(account, "web", "tls", fields.clone()).await;
        // A name that only one account has.
        world.put_entry(account, "web", &format!("of-{account}"), fields).await;
        issued.push(one);
    }
    world
        .backend()
        .with("spec.naming.role", "{account}-{iamRole}")
        .with("spec.tenancy.0.accounts", json!([ACCOUNT, OTHER_ACCOUNT]))
        .apply()
        .await;
    world.role("web").apply().await;
    let other = world.role("web").with("metadata.name", "other");
    other.with("spec.accountId", OTHER_ACCOUNT).apply().await;
    world.sync("web").apply().await;
    world.sync("other").apply().await;

    for (sync, account, one) in [("web", ACCOUNT, &issued[0]), ("other", OTHER_ACCOUNT, &issued[1])]
    {
        world.ready(&format!("vaultcertsync/{sync}")).await;
        let status = world.sync_status(sync).await;
        let names: Vec<_> = status.certificates.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, [format!("of-{account}").as_str(), "tls"]);
        let secret = world.secret(&format!("{sync}-tls")).await.expect("the Secret");
        assert_eq!(text(&secret, "tls.crt"), one.certificate);
        assert_eq!(text(&secret, "tls.key"), one.key);
        assert!(world.secret(&format!("{sync}-of-{account}")).await.is_some());
    }
    assert_eq!(
        world.list("secret").await.len(),
        4,
        "each sync has its own two certificates and no other"
    );

    // The same from Vault's side: the token of one is denied on the other's path, and works on its own.
    for (own, foreign) in [(ACCOUNT, OTHER_ACCOUNT), (OTHER_ACCOUNT, ACCOUNT)] {
        let vault_role = format!("{own}-{}", world.iam_role("web"));
        let client = world.log_in(own, "web", &vault_role).await.expect("a login");
        for (account, expected) in [(own, 200), (foreign, 403)] {
            let directory = world.directory(account, "web");
            for path in ["data", "metadata"] {
                let path = format!("{}/{path}/{directory}/tls", world.kv_mount());
                assert_eq!(client.get(&path).await.expect("Vault").0, expected, "{path}");
            }
            let path = format!("{}/metadata/{directory}/", world.kv_mount());
            assert_eq!(client.list(&path).await.expect("Vault").0, expected, "LIST {path}");
        }
        // Nor may it log in at the other's role.
        let theirs = format!("{foreign}-{}", world.iam_role("web"));
        let refused = world.log_in(own, "web", &theirs).await.expect_err("a foreign principal");
        assert!(refused.contains("IAM Principal"), "{refused}");
    }
}

async fn a_role_name_without_the_account_is_refused_for_two_accounts(world: World) {
    let backend = world.backend().with("spec.tenancy.0.accounts", json!([ACCOUNT, OTHER_ACCOUNT]));
    backend.apply().await;
    world.role("web").apply().await;
    world.becomes(&world.backend_ref(), "Ready", "False", "NamingNotUnique").await;
    world.becomes("vaultawsrole/web", "Ready", "False", "BackendNotReady").await;
    assert_eq!(world.vault_role(&world.iam_role("web")).await, None);
    // One account: the same names are unique.
    world.backend().apply().await;
    world.ready("vaultawsrole/web").await;
}
