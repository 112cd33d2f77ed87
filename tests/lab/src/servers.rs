//! How each server is run: its flags, its files, and when it counts as started.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::json;

use crate::{
    error::Result,
    files,
    keeper::Program,
    kubernetes,
    pki::{Holder, Pki},
    server::{Ready, Server},
    toolchain::Toolchain,
    web::Trust,
};

/// The ports of one lab.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers {
    pub(crate) etcd: u16,
    pub(crate) etcd_peer: u16,
    pub(crate) apiserver: u16,
    pub(crate) controller_manager: u16,
    pub(crate) vault: u16,
    pub(crate) vault_cluster: u16,
    pub(crate) aws: u16,
    pub(crate) sts: u16,
    pub(crate) vault_mutual: u16,
    pub(crate) vault_mutual_cluster: u16,
}

impl From<[u16; 10]> for Numbers {
    fn from(numbers: [u16; 10]) -> Self {
        let [
            etcd,
            etcd_peer,
            apiserver,
            controller_manager,
            vault,
            vault_cluster,
            aws,
            sts,
            vault_mutual,
            vault_mutual_cluster,
        ] = numbers;
        Self {
            etcd,
            etcd_peer,
            apiserver,
            controller_manager,
            vault,
            vault_cluster,
            aws,
            sts,
            vault_mutual,
            vault_mutual_cluster,
        }
    }
}

/// Where one lab's things are.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) folder: PathBuf,
    pub(crate) pki: Pki,
    pub(crate) ports: Numbers,
    pub(crate) tools: Toolchain,
}

impl Layout {
    pub(crate) fn kube_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.ports.apiserver)
    }

    pub(crate) fn vault_addr(&self) -> String {
        format!("https://127.0.0.1:{}", self.ports.vault)
    }

    pub(crate) fn vault_mutual_addr(&self) -> String {
        format!("https://127.0.0.1:{}", self.ports.vault_mutual)
    }

    pub(crate) fn aws_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.aws)
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.kubeconfig")
    }

    pub(crate) fn kube_audit_log(&self) -> PathBuf {
        self.folder.join("audit").join("kube.log")
    }

    pub(crate) fn vault_audit_log(&self) -> PathBuf {
        self.folder.join("audit").join("vault.log")
    }

    /// Creates the folders the servers write to.
    pub(crate) fn create(&self) -> Result<()> {
        for folder in ["log", "pid", "audit", "vault", "ministack"] {
            files::create_folder(&self.folder.join(folder))?;
        }
        Ok(())
    }

    fn trust(&self) -> Trust {
        Trust { ca: Some(self.pki.ca()), identity: None }
    }

    pub(crate) fn etcd(&self) -> Server {
        let client = format!("https://127.0.0.1:{}", self.ports.etcd);
        let peer = format!("http://127.0.0.1:{}", self.ports.etcd_peer);
        let args = Flags::default()
            .path("data-dir", &self.folder.join("etcd"))
            .set("log-level", "warn")
            // The lab's data need not survive the machine.
            .word("--unsafe-no-fsync")
            .set("listen-client-urls", &client)
            .set("advertise-client-urls", &client)
            .set("listen-peer-urls", &peer)
            .set("initial-advertise-peer-urls", &peer)
            .set("initial-cluster", &format!("default={peer}"))
            .path("cert-file", &self.pki.certificate(Holder::Etcd))
            .path("key-file", &self.pki.key(Holder::Etcd))
            .path("trusted-ca-file", &self.pki.ca())
            .word("--client-cert-auth");
        let identity = (self.pki.certificate(Holder::EtcdClient), self.pki.key(Holder::EtcdClient));
        let ready = Ready {
            url: format!("{client}/health"),
            trust: Trust { identity: Some(identity), ..self.trust() },
            any_status: false,
            limit: Duration::from_secs(60),
        };
        Server::new(&self.folder, "etcd", self.ports.etcd, args.run(&self.tools.etcd), ready)
    }

    /// Also writes the files its flags name.
    pub(crate) fn apiserver(&self) -> Result<Server> {
        let authentication = self.folder.join("authentication.json");
        files::write(&authentication, anonymous_health_only().to_string())?;
        let audit = self.folder.join("audit-policy.json");
        files::write(&audit, audit_policy().to_string())?;
        let pki = &self.pki;
        let args = Flags::default()
            .set("bind-address", "127.0.0.1")
            .set("secure-port", &self.ports.apiserver.to_string())
            // Without a default route it finds no address by itself; and an endpoint on loopback
            // is refused.
            .set("advertise-address", "127.0.0.1")
            .set("endpoint-reconciler-type", "none")
            .path("tls-cert-file", &pki.certificate(Holder::ApiServer))
            .path("tls-private-key-file", &pki.key(Holder::ApiServer))
            .path("client-ca-file", &pki.ca())
            .set("etcd-servers", &format!("https://127.0.0.1:{}", self.ports.etcd))
            .path("etcd-cafile", &pki.ca())
            .path("etcd-certfile", &pki.certificate(Holder::EtcdClient))
            .path("etcd-keyfile", &pki.key(Holder::EtcdClient))
            .set("authorization-mode", "RBAC")
            .path("authentication-config", &authentication)
            .set("service-cluster-ip-range", "10.0.0.0/24")
            .set("service-account-issuer", &self.kube_url())
            .path("service-account-key-file", &pki.service_account_public_key())
            .path("service-account-signing-key-file", &pki.service_account_key())
            .set("profiling", "false")
            // Without these the controller manager complains for ever about a missing CA bundle.
            .path("requestheader-client-ca-file", &pki.ca())
            .set("requestheader-allowed-names", "front-proxy")
            .set("requestheader-username-headers", "X-Remote-User")
            .set("requestheader-group-headers", "X-Remote-Group")
            .set("requestheader-extra-headers-prefix", "X-Remote-Extra-")
            .path("audit-policy-file", &audit)
            .path("audit-log-path", &self.kube_audit_log());
        let ready = Ready {
            url: format!("{}/readyz", self.kube_url()),
            trust: self.trust(),
            any_status: false,
            limit: Duration::from_secs(120),
        };
        let program = args.run(&self.tools.kube_apiserver);
        Ok(Server::new(&self.folder, "kube-apiserver", self.ports.apiserver, program, ready))
    }

    /// Also writes its kubeconfig.
    pub(crate) fn controller_manager(&self) -> Result<Server> {
        const CONTROLLERS: &str = "garbage-collector-controller,namespace-controller,\
            serviceaccount-controller,root-ca-certificate-publisher-controller,\
            clusterrole-aggregation-controller";
        let me = Holder::ControllerManager;
        let kubeconfig = self.folder.join("controller-manager.kubeconfig");
        kubernetes::write_kubeconfig(
            &kubeconfig,
            &self.kube_url(),
            &self.pki.ca(),
            &kubernetes::User::Certificate(self.pki.certificate(me), self.pki.key(me)),
        )?;
        let port = self.ports.controller_manager;
        let args = Flags::default()
            .path("kubeconfig", &kubeconfig)
            .path("authentication-kubeconfig", &kubeconfig)
            .path("authorization-kubeconfig", &kubeconfig)
            .set("bind-address", "127.0.0.1")
            .set("secure-port", &port.to_string())
            .path("tls-cert-file", &self.pki.certificate(me))
            .path("tls-private-key-file", &self.pki.key(me))
            .set("leader-elect", "false")
            // With its own user alone the garbage collector may delete nothing.
            .set("use-service-account-credentials", "true")
            .path("root-ca-file", &self.pki.ca())
            .set("controllers", CONTROLLERS);
        let ready = Ready {
            url: format!("https://127.0.0.1:{port}/healthz"),
            trust: self.trust(),
            any_status: false,
            limit: Duration::from_secs(60),
        };
        let program = args.run(&self.tools.kube_controller_manager);
        Ok(Server::new(&self.folder, "kube-controller-manager", port, program, ready))
    }

    /// Also writes its configuration.
    pub(crate) fn vault(&self) -> Result<Server> {
        let mutual = json!({"tcp": {
            "address": format!("127.0.0.1:{}", self.ports.vault_mutual),
            "cluster_address": format!("127.0.0.1:{}", self.ports.vault_mutual_cluster),
            "tls_cert_file": self.pki.certificate(Holder::VaultMutual),
            "tls_key_file": self.pki.key(Holder::VaultMutual),
            "tls_client_ca_file": self.pki.ca(),
            "tls_require_and_verify_client_cert": true,
        }});
        self.vault_of("vault", [self.ports.vault, self.ports.vault_cluster], Some(mutual))
    }

    /// Another one, with the same certificate. Also writes its configuration.
    pub(crate) fn other_vault(&self, ports: [u16; 2]) -> Result<Server> {
        files::create_folder(&self.folder.join("vault-2"))?;
        self.vault_of("vault-2", ports, None)
    }

    fn vault_of(
        &self,
        name: &'static str,
        [port, cluster]: [u16; 2],
        another_listener: Option<serde_json::Value>,
    ) -> Result<Server> {
        let config = self.folder.join(format!("{name}.json"));
        let addr = format!("https://127.0.0.1:{port}");
        let listener = json!({"tcp": {
            "address": format!("127.0.0.1:{port}"),
            "cluster_address": format!("127.0.0.1:{cluster}"),
            "tls_cert_file": self.pki.certificate(Holder::Vault),
            "tls_key_file": self.pki.key(Holder::Vault),
        }});
        let listeners: Vec<_> = [listener].into_iter().chain(another_listener).collect();
        let content = json!({
            "disable_mlock": true,
            "api_addr": addr,
            "cluster_addr": format!("https://127.0.0.1:{cluster}"),
            "storage": {"raft": {
                "path": self.folder.join(name),
                "node_id": "lab",
                // A single node has nobody to wait for; the default makes the first election slow.
                "performance_multiplier": "1",
            }},
            "listener": listeners,
        });
        files::write(&config, content.to_string())?;
        let args = Flags::default().word("server").path("config", &config).set("log-level", "warn");
        let ready = Ready {
            url: format!("{addr}/v1/sys/health"),
            trust: self.trust(),
            // Not initialised is 501, sealed is 503: each means that it listens.
            any_status: true,
            limit: Duration::from_secs(60),
        };
        let program = args.run(&self.tools.vault);
        Ok(Server::new(&self.folder, name, port, program, ready))
    }

    pub(crate) fn ministack(&self) -> Server {
        let state = self.folder.join("ministack");
        let set = |name: &str, value: &str| (name.to_owned(), OsString::from(value));
        let program = Program {
            path: self.tools.python.clone(),
            args: ["-m", "ministack"].map(Into::into).into(),
            env: vec![
                // Its default is every address of the machine.
                set("BIND_HOST", "127.0.0.1"),
                set("GATEWAY_PORT", &self.ports.aws.to_string()),
                set("AUTH", "true"),
                set("LOG_LEVEL", "WARNING"),
                set("MINISTACK_ACCOUNT_ID", crate::aws::HOME_ACCOUNT),
                // Without both, a restart gives every role a new unique id.
                set("PERSIST_STATE", "1"),
                ("STATE_DIR".to_owned(), state.clone().into()),
            ],
            folder: Some(state),
            only_this_env: false,
        };
        let ready = Ready {
            url: format!("{}/_ministack/health", self.aws_url()),
            trust: Trust::default(),
            any_status: false,
            limit: Duration::from_secs(60),
        };
        Server::new(&self.folder, "ministack", self.ports.aws, program, ready)
    }
}

/// Nobody without a name, but for the two questions a load balancer asks.
fn anonymous_health_only() -> serde_json::Value {
    json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AuthenticationConfiguration",
        "anonymous": {"enabled": true, "conditions": [{"path": "/livez"}, {"path": "/readyz"}]},
    })
}

/// Who asked for what and what came of it, without bodies. The control plane itself is left out.
fn audit_policy() -> serde_json::Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "None", "users": ["system:apiserver", "system:kube-controller-manager"]},
            {"level": "None", "nonResourceURLs": ["/livez*", "/readyz*"]},
            {"level": "Metadata"},
        ],
    })
}

#[derive(Default)]
struct Flags(Vec<OsString>);

impl Flags {
    fn word(mut self, word: &str) -> Self {
        self.0.push(word.into());
        self
    }

    fn set(self, name: &str, value: &str) -> Self {
        self.word(&format!("--{name}={value}"))
    }

    fn path(mut self, name: &str, value: &Path) -> Self {
        let mut flag = OsString::from(format!("--{name}="));
        flag.push(value);
        self.0.push(flag);
        self
    }

    fn run(self, program: &Path) -> Program {
        Program { path: program.to_owned(), args: self.0, ..Program::default() }
    }
}
