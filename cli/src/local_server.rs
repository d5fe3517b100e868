//! Finds the server that a client command talks to, and starts one for the call when the local one does not run.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::Instant;
use url::{Host, Url};

use crate::admin_key;
use crate::client::Client;
use crate::config::Config;
use crate::print;
use crate::private_file;

/// Longest wait for a server started for the call; its first start makes the database.
const START_LIMIT: Duration = Duration::from_secs(120);

/// What to do when no server runs on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// Say so.
    Fail,
    /// Start one for the call, with a remark unless `quiet`.
    Start {
        /// Without the remark.
        quiet: bool,
    },
}

/// A client, and the server started for it, if one was. The server stops when this is dropped.
#[derive(Debug)]
pub struct Connection {
    /// Speaks to the server.
    pub client: Client,
    server: Option<Child>,
}

impl Connection {
    /// Finds the server: the one named by `--server` or `DALSTON_SERVER`; else the one that runs on this data folder; else
    /// the one that the settings of a server on this machine would make.
    pub async fn open(config: &Config, absent: Absent) -> anyhow::Result<Connection> {
        if let Some(server) = &config.server {
            let client = Client::new(server, key(config, server)?)?;
            return Ok(Connection {
                client,
                server: None,
            });
        }
        let recorded = match recorded(&config.data_dir)? {
            Some(address) => Some(Client::new(&address, key(config, &address)?)?),
            None => None,
        };
        let own = own_address(config);
        // A server there that did not write itself down here is somebody else's: the kept key is not for it.
        let default = Client::new(&own, config.api_key.clone())?;
        for client in recorded.into_iter().chain([default]) {
            if client.is_healthy().await {
                return Ok(Connection {
                    client,
                    server: None,
                });
            }
        }
        match absent {
            Absent::Fail => bail!(
                "no server answers at {own}. Start one with `dalston serve`, or name one with --server"
            ),
            Absent::Start { quiet } => start(config, quiet).await,
        }
    }

    /// Stops the server that was started for the call, letting it finish in good order.
    pub async fn close(mut self) -> anyhow::Result<()> {
        let Some(mut server) = self.server.take() else {
            return Ok(());
        };
        terminate(&server);
        let status = tokio::task::spawn_blocking(move || server.wait()).await??;
        if !status.success() {
            tracing::warn!(%status, "The server that was started for this call did not stop in good order");
        }
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            terminate(server);
            // Its database must be shut down before the next command can use the folder.
            server.wait().ok();
        }
    }
}

fn terminate(server: &Child) {
    // SAFETY: signals a child of ours that is not waited for yet.
    unsafe { libc::kill(server.id().cast_signed(), libc::SIGTERM) };
}

/// Where a server on this machine is by its settings; one on every interface is reached through loopback.
pub fn own_address(config: &Config) -> String {
    let host = match config.host {
        IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    };
    format!("http://{}", SocketAddr::new(host, config.port))
}

/// Where a running server writes down its address for the clients of its data folder.
pub fn address_file(data_dir: &Path) -> PathBuf {
    data_dir.join("server.url")
}

fn recorded(data_dir: &Path) -> anyhow::Result<Option<String>> {
    use secrecy::ExposeSecret;
    Ok(private_file::read(&address_file(data_dir))?.map(|url| url.expose_secret().to_owned()))
}

/// The configured key, or for a server on this machine the one kept in the data folder.
fn key(config: &Config, server: &str) -> anyhow::Result<Option<secrecy::SecretString>> {
    if config.api_key.is_some() || !is_local(server) {
        return Ok(config.api_key.clone());
    }
    // A data folder of another user is no reason to fail: the server may need no key.
    Ok(private_file::read(&admin_key::file(&config.data_dir)).unwrap_or_default())
}

fn is_local(server: &str) -> bool {
    let Ok(url) = Url::parse(server) else {
        return false;
    };
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

async fn start(config: &Config, quiet: bool) -> anyhow::Result<Connection> {
    if !quiet {
        print::note(
            "No server runs; starting one for this call (`dalston serve` keeps one running).",
        );
    }
    let port = free_port()?;
    let log = config.data_dir.join("serve.log");
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("creating {}", config.data_dir.display()))?;
    let output =
        std::fs::File::create(&log).with_context(|| format!("creating {}", log.display()))?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("serve")
        .env("DALSTON_HOST", "127.0.0.1")
        .env("DALSTON_PORT", port.to_string())
        .env("DALSTON_DATA_DIR", &config.data_dir)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    // SAFETY: runs between fork and exec and makes only an async-signal-safe system call.
    unsafe {
        command.pre_exec(|| {
            // Ctrl-C is for the client; it then stops the server.
            libc::setsid();
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) == -1 {
                Err(std::io::Error::last_os_error())
            } else {
                Ok(())
            }
        });
    }
    let server = command.spawn().context("starting a server")?;
    let address = format!("http://127.0.0.1:{port}");
    let mut connection = Connection {
        client: Client::new(&address, None)?,
        server: Some(server),
    };
    let deadline = Instant::now() + START_LIMIT;
    while !connection.client.is_healthy().await {
        let ended = connection
            .server
            .as_mut()
            .and_then(|server| server.try_wait().ok().flatten());
        if ended.is_some() || Instant::now() > deadline {
            bail!(
                "the server did not start:\n{}",
                std::fs::read_to_string(&log).unwrap_or_default().trim()
            );
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The first start makes the key.
    connection.client = Client::new(&address, key(config, &address)?)?;
    Ok(connection)
}

fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?
        .local_addr()?
        .port())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn the_kept_key_goes_to_this_machine_only() {
        let folder = tempfile::tempdir().unwrap();
        private_file::write(&admin_key::file(folder.path()), "dk_kept").unwrap();
        let config = Config::load(
            &[("DALSTON_DATA_DIR", folder.path().display().to_string())],
            |_| None,
        )
        .unwrap();
        let sent = |server: &str| {
            key(&config, server)
                .unwrap()
                .map(|key| key.expose_secret().to_owned())
        };
        assert_eq!(sent("http://127.0.0.1:9000").as_deref(), Some("dk_kept"));
        assert_eq!(sent("http://localhost:9000").as_deref(), Some("dk_kept"));
        assert_eq!(sent("http://[::1]:9000").as_deref(), Some("dk_kept"));
        assert_eq!(sent("https://speech.example.org"), None);
        assert_eq!(sent("http://localhost.example.org"), None);
    }

    #[test]
    fn a_server_on_every_interface_is_reached_through_loopback() {
        let check = |host: &str, address: &str| {
            let config = Config::load(&[("DALSTON_HOST", host.to_owned())], |_| None).unwrap();
            assert_eq!(own_address(&config), address);
        };
        check("127.0.0.1", "http://127.0.0.1:8000");
        check("0.0.0.0", "http://127.0.0.1:8000");
        check("::", "http://[::1]:8000");
    }
}
