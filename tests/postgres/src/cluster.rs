//! The server itself: found, initialised, started, and sure to die with the test binary.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use dalston_schema::db::DatabaseConfig;

/// Servers this process has started.
static STARTED: AtomicU32 = AtomicU32::new(0);

/// What a commit promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Nothing is forced to disk: fast, for tests.
    None,
    /// The commit is on the disk before it is acknowledged, with memory as on a small server: for benchmarks.
    Full,
}

/// A running server. It is killed when the process that started it ends.
#[derive(Debug)]
pub struct Server {
    directory: PathBuf,
    binaries: PathBuf,
    pid: u32,
}

/// Who the server runs as: PostgreSQL refuses to run as root.
#[derive(Clone, Copy)]
struct Account {
    uid: u32,
    gid: u32,
}

impl Server {
    /// Initialises and starts a server of this process's own. Blocks for about a second.
    #[must_use]
    pub fn start(durability: Durability) -> Self {
        let binaries = find_binaries();
        sweep_old_folders();
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let directory = folder_of(std::process::id(), number);
        fs::create_dir_all(&directory).unwrap();
        let account = unprivileged_account();
        if let Some(Account { uid, gid }) = account {
            chown(&directory, Some(uid), Some(gid)).unwrap();
        }
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();

        let mut initdb = Command::new(binaries.join("initdb"));
        initdb
            .args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C"])
            .args(["--username", super::role(), "-D"])
            .arg(directory.join("data"));
        let made = run_as(&mut initdb, account).output().unwrap();
        assert!(
            made.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&made.stderr)
        );

        let pid = serve(&binaries, &directory, account, durability);
        wait_until_it_answers(&directory);
        Self {
            directory,
            binaries,
            pid,
        }
    }

    /// The folder of the unix socket.
    #[must_use]
    pub fn socket_directory(&self) -> &Path {
        &self.directory
    }

    /// The folder of the server's programs.
    #[must_use]
    pub fn binaries(&self) -> &Path {
        &self.binaries
    }

    /// How to reach one of its databases.
    #[must_use]
    pub fn config(&self, database: &str) -> DatabaseConfig {
        let socket = self.directory.to_str().unwrap().replace('/', "%2F");
        DatabaseConfig {
            url: format!("postgres://{}@{socket}/{database}", super::role()).into(),
            max_connections: 16,
            transaction_pooler: false,
            application_name: "dalston-test".to_owned(),
        }
    }

    /// Kills the server and removes its folder.
    pub fn stop(self) {
        // SAFETY: kill has no preconditions; the process is a child of ours that is not waited for elsewhere before it
        // has ended, so the number is still its own.
        unsafe { libc::kill(i32::try_from(self.pid).unwrap(), libc::SIGQUIT) };
        let process = Path::new("/proc").join(self.pid.to_string());
        let deadline = Instant::now() + Duration::from_secs(10);
        while process.exists() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn find_binaries() -> PathBuf {
    if let Some(folder) = std::env::var_os("DALSTON_TEST_PG_BIN") {
        return folder.into();
    }
    let installed = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let newest = installed
        .filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, bin)| bin.join("postgres").exists() && bin.join("initdb").exists())
        .max();
    let on_path = || {
        std::env::split_paths(&std::env::var_os("PATH")?)
            .find(|folder| folder.join("postgres").exists() && folder.join("initdb").exists())
    };
    newest.map(|(_, bin)| bin).or_else(on_path).expect(
        "no PostgreSQL server found: run `make setup`, or name a folder with initdb and postgres in DALSTON_TEST_PG_BIN",
    )
}

fn unprivileged_account() -> Option<Account> {
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let account = ["postgres", "nobody"].iter().find_map(|name| {
        let line = passwd
            .lines()
            .find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some(Account {
            uid: fields.next()?.parse().ok()?,
            gid: fields.next()?.parse().ok()?,
        })
    });
    Some(account.expect("running as root needs a user `postgres` or `nobody`"))
}

fn run_as(command: &mut Command, account: Option<Account>) -> &mut Command {
    if let Some(Account { uid, gid }) = account {
        command.uid(uid).gid(gid);
    }
    command.current_dir("/")
}

/// Starts the server from a thread that never ends: the server asks to be killed when that thread does, which is when
/// the test binary ends in whatever way.
fn serve(
    binaries: &Path,
    directory: &Path,
    account: Option<Account>,
    durability: Durability,
) -> u32 {
    let mut server = Command::new(binaries.join("postgres"));
    server.arg("-D").arg(directory.join("data"));
    server
        .arg("-c")
        .arg(format!("unix_socket_directories={}", directory.display()));
    let settings: &[&str] = match durability {
        Durability::None => &[
            "shared_buffers=64MB",
            "fsync=off",
            "synchronous_commit=off",
            "full_page_writes=off",
        ],
        Durability::Full => &["shared_buffers=1GB", "maintenance_work_mem=512MB"],
    };
    for setting in settings.iter().chain(&[
        "listen_addresses=",
        "max_connections=400",
        "max_wal_size=4GB",
        "log_min_messages=warning",
    ]) {
        server.arg("-c").arg(setting);
    }
    let log = fs::File::create(directory.join("server.log")).unwrap();
    server
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    run_as(&mut server, account);
    // SAFETY: prctl is async-signal-safe and touches nothing of ours. It comes after the change of user, which would
    // clear it.
    unsafe {
        server.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGQUIT) == 0 {
                Ok(())
            } else {
                Err(io::Error::last_os_error())
            }
        });
    }
    let (started, wait) = mpsc::channel();
    thread::Builder::new()
        .name("postgres".to_owned())
        .spawn(move || {
            let child = server.spawn();
            let pid = child.as_ref().map(std::process::Child::id);
            started.send(pid.map_err(ToString::to_string)).unwrap();
            if let Ok(mut child) = child {
                let _ = child.wait();
            }
        })
        .unwrap();
    wait.recv().unwrap().unwrap()
}

fn wait_until_it_answers(directory: &Path) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let socket = directory.join(".s.PGSQL.5432");
    let ready = directory.join("data/postmaster.pid");
    while Instant::now() < deadline {
        // The last line of the file says `ready` once connections are taken.
        let says_ready = fs::read_to_string(&ready).is_ok_and(|text| text.contains("ready"));
        if says_ready && socket.exists() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!(
        "PostgreSQL did not start: {}",
        fs::read_to_string(directory.join("server.log")).unwrap_or_default()
    );
}

fn folder_of(pid: u32, number: u32) -> PathBuf {
    std::env::temp_dir().join(format!("dalston-test-postgres-{pid}-{number}"))
}

/// Removes what earlier test binaries left; a binary cannot clean up after itself when it is killed.
fn sweep_old_folders() {
    for entry in fs::read_dir(std::env::temp_dir())
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        let Some(pid) = name
            .to_str()
            .and_then(|name| name.strip_prefix("dalston-test-postgres-"))
            .and_then(|rest| rest.split('-').next())
        else {
            continue;
        };
        if !Path::new("/proc").join(pid).exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
