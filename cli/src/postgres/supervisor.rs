//! The thread that owns the server process: starts it, waits for it, starts it again when it dies, stops it when asked.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::account::Account;
use super::binaries::Binaries;
use super::probe::{self, Answer};
use super::spawn::Launch;
use super::{Durability, Options, PostgresError, cluster, orphans};

/// How often a starting server is asked whether it is ready.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);
/// Longest wait for a server that lives but does not accept connections: crash recovery replays at most `max_wal_size`.
const START_LIMIT: Duration = Duration::from_secs(600);
/// First and longest pause before a dead server is started again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// The log is put aside at the next start when it has grown past this many bytes.
const LOG_LIMIT: u64 = 16 << 20;

/// Server settings that suit a queue of small transactions beside a process that needs the memory more.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", ""),
    ("cluster_name", "dalston"),
    ("max_connections", "200"),
    ("shared_buffers", "256MB"),
    ("max_wal_size", "2GB"),
    ("checkpoint_timeout", "15min"),
    // Compiling queries costs more than any of ours takes.
    ("jit", "off"),
    // Queue tables turn over quickly; dead rows in front of the live ones slow every claim.
    ("autovacuum_naptime", "15s"),
    ("log_checkpoints", "off"),
    ("log_line_prefix", "%m [%p] "),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
];

/// Settings for each promise of durability.
fn durability_settings(durability: Durability) -> &'static [(&'static str, &'static str)] {
    match durability {
        Durability::Full => &[("fsync", "on"), ("synchronous_commit", "on")],
        // Commits still reach the operating system: a killed server loses nothing, only a power failure does.
        Durability::None => &[
            ("fsync", "off"),
            ("synchronous_commit", "on"),
            ("full_page_writes", "off"),
        ],
    }
}

#[derive(Debug, Default)]
struct State {
    /// The child's process id while it is not reaped, so a signal never reaches a stranger.
    pid: Option<libc::pid_t>,
    /// Set once the first start succeeded: from then on a dead server is started again.
    established: bool,
    stopping: bool,
    finished: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, timeout: Duration) -> MutexGuard<'a, State> {
        self.changed
            .wait_timeout(state, timeout)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }
}

#[derive(Debug)]
pub(super) struct Supervisor {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Supervisor {
    /// Starts the thread and the server and returns when the server accepts connections on `socket`.
    pub(super) fn start(
        directory: &Path,
        binaries: &Binaries,
        account: Account,
        options: &Options,
        socket: &Path,
    ) -> Result<Supervisor, PostgresError> {
        let log = Log::open(directory)?;
        let shared = Arc::new(Shared::default());
        let server = Server {
            launch: Launch::new(directory, &account)?,
            binaries: binaries.clone(),
            options: options.clone(),
            data: cluster::data(directory),
            log: log.path.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("postgres".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || server.supervise(&shared)
            });
        let thread = thread.map_err(PostgresError::io(
            "starting the thread that watches PostgreSQL",
        ))?;
        let mut supervisor = Supervisor {
            shared,
            thread: Some(thread),
        };
        if let Err(error) = supervisor.wait_until_ready(socket, &log) {
            supervisor.stop();
            return Err(error);
        }
        Ok(supervisor)
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.shared.lock().pid.map(libc::pid_t::cast_unsigned)
    }

    fn wait_until_ready(&self, socket: &Path, log: &Log) -> Result<(), PostgresError> {
        let failed = |detail| PostgresError::Failed {
            what: "starting PostgreSQL",
            detail,
        };
        let started = Instant::now();
        loop {
            match probe::ask(socket, Duration::from_secs(5)) {
                Answer::Ready => {
                    self.shared.lock().established = true;
                    return Ok(());
                }
                Answer::Refused(message) => return Err(failed(message)),
                Answer::NotYet => {}
            }
            let state = self.shared.lock();
            if state.finished {
                return Err(failed(log.since_open()));
            }
            if started.elapsed() > START_LIMIT {
                return Err(failed(format!(
                    "it does not accept connections after {} s; see {}",
                    START_LIMIT.as_secs(),
                    log.path.display()
                )));
            }
            drop(self.shared.wait(state, PROBE_INTERVAL));
        }
    }

    /// Stops the server and returns when it is gone: fast shutdown first, then harder.
    pub(super) fn stop(&mut self) {
        let mut state = self.shared.lock();
        state.stopping = true;
        self.shared.changed.notify_all();
        for (signal, patience) in [(libc::SIGINT, 15), (libc::SIGQUIT, 5), (libc::SIGKILL, 5)] {
            let deadline = Instant::now() + Duration::from_secs(patience);
            if let Some(pid) = state.pid {
                // SAFETY: sends a signal to a child that is not reaped yet (its pid is still in `state`).
                unsafe { libc::kill(pid, signal) };
            }
            while !state.finished && Instant::now() < deadline {
                state = self
                    .shared
                    .wait(state, deadline.saturating_duration_since(Instant::now()));
            }
        }
        drop(state);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("The thread that watches PostgreSQL panicked");
        }
    }
}

/// Everything needed to start the server again and again.
struct Server {
    launch: Launch,
    binaries: Binaries,
    options: Options,
    data: PathBuf,
    log: PathBuf,
}

impl Server {
    /// Body of the thread. It lives as long as the server, because the parent-death signal follows the spawning thread.
    fn supervise(&self, shared: &Shared) {
        let mut pause = BACKOFF.0;
        loop {
            let spawned_at = Instant::now();
            match self.spawn(shared) {
                Ok(Some(child)) => reap(child, shared),
                Ok(None) => {}
                Err(error) => tracing::error!(%error, "PostgreSQL could not be started"),
            }
            let mut state = shared.lock();
            if state.stopping || !state.established {
                state.finished = true;
                shared.changed.notify_all();
                return;
            }
            if spawned_at.elapsed() > Duration::from_secs(60) {
                pause = BACKOFF.0;
            }
            tracing::error!(log = %self.log.display(), restart_in_ms = pause.as_millis() as u64, "PostgreSQL ended by itself; starting it again");
            let resume = Instant::now() + pause;
            while !state.stopping && Instant::now() < resume {
                state = shared.wait(state, resume.saturating_duration_since(Instant::now()));
            }
            drop(state);
            pause = (pause * 2).min(BACKOFF.1);
            if let Err(error) = orphans::clear(&self.data) {
                tracing::error!(%error, "What is left of the last PostgreSQL is in the way");
            }
        }
    }

    /// Spawns the server unless it is to stop; the pid is published under the same lock, so `stop` never misses it.
    fn spawn(&self, shared: &Shared) -> std::io::Result<Option<Child>> {
        let mut command = self.command()?;
        let mut state = shared.lock();
        if state.stopping {
            return Ok(None);
        }
        let child = command.spawn()?;
        state.pid = Some(child.id().cast_signed());
        Ok(Some(child))
    }

    fn command(&self) -> std::io::Result<Command> {
        let log = open_log(&self.log)?;
        let mut command = self
            .launch
            .command(&self.binaries.directory.join("postgres"));
        command.arg("-D").arg(self.launch.inside("data"));
        let paths = [
            ("hba_file", "pg_hba.conf"),
            ("ident_file", "pg_ident.conf"),
            ("unix_socket_directories", "socket"),
        ];
        for (name, relative) in paths {
            command
                .arg("-c")
                .arg(format!("{name}={}", self.launch.inside(relative).display()));
        }
        let ours = SETTINGS
            .iter()
            .chain(durability_settings(self.options.durability))
            .map(|(name, value)| (*name, *value));
        let asked = self
            .options
            .settings
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        // PostgreSQL takes the last value of a setting.
        for (name, value) in ours.chain(asked) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        Ok(command)
    }
}

/// Waits for the child to end, then forgets its pid and collects it in one step, so that no signal can go to a reused pid.
fn reap(mut child: Child, shared: &Shared) {
    loop {
        // SAFETY: `siginfo_t` is plain data for which zeroes are valid, and `waitid` only writes into it. WNOWAIT leaves the
        // child a zombie, which keeps its pid from being reused.
        let status = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            libc::waitid(
                libc::P_PID,
                child.id(),
                &raw mut info,
                libc::WEXITED | libc::WNOWAIT,
            )
        };
        if status == 0 || std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted
        {
            break;
        }
    }
    let mut state = shared.lock();
    state.pid = None;
    match child.wait() {
        Ok(status) if status.success() => {}
        Ok(status) => tracing::warn!(%status, "PostgreSQL ended"),
        Err(error) => tracing::error!(%error, "PostgreSQL could not be waited for"),
    }
    shared.changed.notify_all();
}

/// The server's log and where in it this start began.
struct Log {
    path: PathBuf,
    start: u64,
}

impl Log {
    fn open(directory: &Path) -> Result<Log, PostgresError> {
        let path = directory.join("server.log");
        let shown = path.display().to_string();
        if std::fs::metadata(&path).is_ok_and(|log| log.len() > LOG_LIMIT) {
            std::fs::rename(&path, directory.join("server.log.1"))
                .map_err(PostgresError::io(format!("putting {shown} aside")))?;
        }
        let start = open_log(&path)
            .and_then(|log| log.metadata())
            .map_err(PostgresError::io(format!("opening {shown}")))?
            .len();
        Ok(Log { path, start })
    }

    /// What the server wrote since this start: its reason to end.
    fn since_open(&self) -> String {
        let mut text = String::new();
        let read = File::open(&self.path).and_then(|mut log| {
            log.seek(SeekFrom::Start(self.start))?;
            log.take(4096).read_to_string(&mut text)
        });
        match read {
            Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
            _ => format!("it ended at once; see {}", self.path.display()),
        }
    }
}

/// Opens for appending: a server that restarts must not write over the last one's words.
fn open_log(path: &Path) -> std::io::Result<File> {
    File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}
