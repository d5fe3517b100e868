//! A PostgreSQL server of our own: found on the machine, initialised in a folder, started as a child, watched and stopped.
//!
//! The server listens on a unix socket only and lets in the operating-system user that started it (peer authentication), so
//! there is no port to guard and no password to lose. It dies with the process that started it, and a start after `kill -9`
//! (of either side) first waits for what is left of the old server, then lets PostgreSQL recover from its log.
//! Linux only: it relies on `/proc` and on the parent-death signal.

mod account;
mod binaries;
mod cluster;
mod orphans;
mod probe;
mod socket;
mod spawn;
mod supervisor;

pub use binaries::{Binaries, OLDEST_MAJOR};

use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use account::Account;
use supervisor::Supervisor;

/// What the server is to be: where it lives and how much it may take.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder that holds `data/` (the cluster), `socket/`, `server.log` and `lock`. Created when missing.
    pub directory: PathBuf,
    /// Folders to look for server binaries in before the places every installation uses.
    pub search: Vec<PathBuf>,
    /// Whether a commit survives a power failure.
    pub durability: Durability,
    /// Server settings (`name`, `value`) that overrule the ones chosen here.
    pub settings: Vec<(String, String)>,
}

impl Options {
    /// A durable server in `directory` with our own settings.
    pub fn new(directory: impl Into<PathBuf>) -> Options {
        Options {
            directory: directory.into(),
            search: Vec::new(),
            durability: Durability::Full,
            settings: Vec::new(),
        }
    }
}

/// What a commit promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The commit is on the disk before it is acknowledged.
    Full,
    /// Nothing is forced to disk: fast, safe against a killed server, lost with the machine. For tests.
    None,
}

/// Why the server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// No usable server binaries on this machine.
    #[error(
        "no PostgreSQL server ({OLDEST_MAJOR} or newer) found; looked in {looked_in}. Run `make setup`, install one \
         (Debian and Ubuntu: apt install postgresql), or point DATABASE_URL at a running server"
    )]
    NotFound {
        /// The folders looked at, joined by commas.
        looked_in: String,
    },
    /// The cluster on disk was made by another major version.
    #[error(
        "the database in {directory} was made by PostgreSQL {on_disk}, but only PostgreSQL {found} is installed. Install \
         PostgreSQL {on_disk} again, or move the data with pg_dump and pg_restore into a new data folder"
    )]
    Version {
        /// The cluster's folder.
        directory: PathBuf,
        /// Major version that wrote the cluster.
        on_disk: u32,
        /// Major versions installed, joined by commas.
        found: String,
    },
    /// Another process runs the server in this folder.
    #[error(
        "the data folder {directory} is in use by process {pid}. Stop it first, or choose another DALSTON_DATA_DIR"
    )]
    InUse {
        /// The folder asked for.
        directory: PathBuf,
        /// The process that holds it, as it wrote itself down.
        pid: String,
    },
    /// Root started us and there is no ordinary user to run the server as.
    #[error(
        "PostgreSQL refuses to run as root and this machine has neither a user `postgres` nor `nobody`. Create one: useradd --system postgres"
    )]
    NoAccount,
    /// The server, or `initdb`, said no.
    #[error("{what} failed: {detail}")]
    Failed {
        /// The program.
        what: &'static str,
        /// Its last words.
        detail: String,
    },
    /// The file system or a process call said no.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
}

impl PostgresError {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> PostgresError {
        let what = what.into();
        move |source| PostgresError::Io { what, source }
    }
}

/// A running server. Dropping it stops the server.
#[derive(Debug)]
pub struct Postgres {
    supervisor: Supervisor,
    url: String,
    bin: PathBuf,
    _lock: File,
}

impl Postgres {
    /// Starts the server in `options.directory`, creating the cluster and its database `dalston` the first time, and returns
    /// when it accepts connections. Blocks: seconds the first time, about 0.3 s after that, longer after a crash.
    ///
    /// # Errors
    /// See [`PostgresError`]; every variant names the remedy.
    pub fn start(options: Options) -> Result<Postgres, PostgresError> {
        let directory = absolute(&options.directory)?;
        fs::create_dir_all(&directory).map_err(PostgresError::io(format!(
            "creating {}",
            directory.display()
        )))?;
        let lock = take_lock(&directory)?;
        let account = Account::for_directory(&directory)?;
        let binaries = binaries::choose(
            &binaries::installed(&options.search),
            cluster::version(&directory)?,
            &directory,
        )?;
        orphans::clear(&cluster::data(&directory))?;
        cluster::prepare(&directory, &binaries, &account, options.durability)?;
        let socket = socket::reachable(&cluster::socket(&directory))?;
        let supervisor = Supervisor::start(&directory, &binaries, account, &options, &socket)?;
        Ok(Postgres {
            supervisor,
            url: url_for(&socket),
            bin: binaries.directory,
            _lock: lock,
        })
    }

    /// The connection URL of database `dalston`, understood by sqlx and libpq alike.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The folder that holds this server's binaries (`psql`, `pg_dump`, `pgbench` where the installation has them).
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// The server's process id, or `None` while it is being restarted.
    pub fn pid(&self) -> Option<u32> {
        self.supervisor.pid()
    }

    /// Stops the server: open transactions are rolled back, everything committed is on disk when this returns.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.supervisor.stop();
    }
}

/// The URL of the server that another process runs in `directory`, or `None` when none answers there.
pub fn running(directory: &Path) -> Option<String> {
    let socket = socket::reachable(&cluster::socket(&absolute(directory).ok()?)).ok()?;
    matches!(
        probe::ask(&socket, Duration::from_secs(2)),
        probe::Answer::Ready
    )
    .then(|| url_for(&socket))
}

fn url_for(socket: &Path) -> String {
    let host: String =
        url::form_urlencoded::byte_serialize(socket.as_os_str().as_encoded_bytes()).collect();
    format!(
        "postgres://{}@localhost/{}?host={host}",
        cluster::ROLE,
        cluster::DATABASE
    )
}

fn absolute(path: &Path) -> Result<PathBuf, PostgresError> {
    std::path::absolute(path).map_err(PostgresError::io(format!("resolving {}", path.display())))
}

/// Holds `lock` for as long as the returned file lives; the kernel lets go of it however the process ends.
fn take_lock(directory: &Path) -> Result<File, PostgresError> {
    let path = directory.join("lock");
    let shown = path.display().to_string();
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(PostgresError::io(format!("opening {shown}")))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // The name in the message is a courtesy: an unreadable file must not hide the real reason.
            if file.read_to_string(&mut pid).is_err() || pid.trim().is_empty() {
                pid = "(unknown)".to_owned();
            }
            return Err(PostgresError::InUse {
                directory: directory.to_owned(),
                pid: pid.trim().to_owned(),
            });
        }
        Err(TryLockError::Error(source)) => {
            return Err(PostgresError::Io {
                what: format!("locking {shown}"),
                source,
            });
        }
    }
    let write = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| write!(file, "{}", std::process::id()));
    write.map_err(PostgresError::io(format!("writing {shown}")))?;
    Ok(file)
}
