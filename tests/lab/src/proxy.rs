//! Vault Proxy: the lab's own `vault` binary between a client and the lab's Vault, as people run it on
//! their machines.

use std::{fs, path::PathBuf, time::Duration};

use crate::{
    error::{Doing as _, Result},
    files,
    keeper::Program,
    lab::Lab,
    ports::Ports,
    server::{Ready, Server},
    web::Trust,
};

const START_LIMIT: Duration = Duration::from_secs(20);

/// A running `vault proxy`. Dropping it kills it; it cannot outlive its owner.
#[derive(Debug)]
pub struct VaultProxy {
    server: Server,
    socket: PathBuf,
    _port: Ports<1>,
}

impl VaultProxy {
    /// Starts it with this configuration, in which `{port}` and `{socket}` stand for the places where
    /// it is to listen, and returns when its port answers. It trusts the lab's CA.
    pub async fn start(lab: &Lab, configuration: &str) -> Result<Self> {
        let port = Ports::<1>::reserve()?;
        let [number] = port.numbers;
        let folder = lab.folder().join(format!("proxy-{number}"));
        files::create_folder(&folder)?;
        let (file, socket) = (folder.join("proxy.hcl"), folder.join("socket"));
        let configuration = configuration
            .replace("{port}", &number.to_string())
            .replace("{socket}", &socket.to_string_lossy());
        fs::write(&file, configuration).doing(|| format!("writing {}", file.display()))?;
        let program = Program {
            path: lab.vault_program().to_owned(),
            args: vec!["proxy".into(), "-config".into(), file.into()],
            env: vec![
                ("PATH".to_owned(), "/usr/bin:/bin".into()),
                ("HOME".to_owned(), folder.clone().into()),
                ("VAULT_CACERT".to_owned(), lab.ca_path().into()),
            ],
            folder: Some(folder),
            only_this_env: true,
        };
        let ready = Ready {
            url: format!("http://127.0.0.1:{number}/v1/sys/health"),
            trust: Trust::default(),
            any_status: true,
            limit: START_LIMIT,
        };
        let server = Server::new(lab.folder(), "vault-proxy", number, program, ready);
        server.start().await?;
        Ok(Self { server, socket, _port: port })
    }

    /// For example `http://127.0.0.1:20007`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.server.port())
    }

    /// `unix://` and the path of its socket, if the configuration has it listen there.
    pub fn socket_url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Asks it to end.
    pub async fn stop(&self) -> Result<()> {
        self.server.stop().await
    }
}
