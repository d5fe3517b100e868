//! `dalston serve` as one user runs it: real processes on a data folder of their own.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const DALSTON: &str = env!("CARGO_BIN_EXE_dalston");
/// How long anything may take; only ever waited out by a failure.
const DEADLINE: Duration = Duration::from_secs(90);

fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited too long for: {what}");
        std::thread::yield_now();
    }
}

fn kill(pid: u32, signal: i32) {
    // SAFETY: signals a process that this test started, directly or through `serve`.
    assert_eq!(unsafe { libc::kill(pid.cast_signed(), signal) }, 0);
}

/// A served data folder.
struct Served {
    folder: TempDir,
    port: u16,
    child: Child,
}

impl Served {
    /// Serves a new folder and waits until it is ready.
    fn new() -> Served {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind(("127.0.0.1", 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let child = spawn(folder.path(), port);
        let served = Served {
            folder,
            port,
            child,
        };
        served.wait_until_ready(1);
        served
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts again in the same folder; `times` starts have been announced then.
    fn start_again(&mut self, times: usize) {
        self.child = spawn(self.folder.path(), self.port);
        self.wait_until_ready(times);
    }

    fn output(&self) -> String {
        fs::read_to_string(self.folder().join("output")).unwrap_or_default()
    }

    fn wait_until_ready(&self, times: usize) {
        eventually(
            &format!("start {times} to be announced:\n{}", self.output()),
            || (self.output().matches("Dalston is ready on").count() == times).then_some(()),
        );
    }

    /// Runs a client command on this folder, without saying where the server is.
    fn client(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(DALSTON);
        clean(&mut command, self.folder());
        command.args(arguments).output().unwrap()
    }

    /// Process ids of the database server and the worker.
    fn children(&self) -> Vec<(u32, String)> {
        let parent = self.child.id();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))
            .unwrap_or_default();
        // The database is started by a thread of its own.
        let tasks = fs::read_dir(format!("/proc/{parent}/task"))
            .into_iter()
            .flatten()
            .flatten();
        let of_threads = tasks
            .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
            .collect::<String>();
        let mut pids: Vec<u32> = format!("{children} {of_threads}")
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids.into_iter()
            .filter_map(|pid| {
                Some((
                    pid,
                    fs::read_to_string(format!("/proc/{pid}/comm"))
                        .ok()?
                        .trim()
                        .to_owned(),
                ))
            })
            .collect()
    }

    fn child_named(&self, name: &str) -> u32 {
        eventually(&format!("a child process {name}"), || {
            self.children()
                .into_iter()
                .find(|(_, comm)| comm == name)
                .map(|(pid, _)| pid)
        })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
        if std::thread::panicking() {
            eprintln!("--- output\n{}", self.output());
        }
    }
}

fn clean(command: &mut Command, folder: &Path) {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("DALSTON_") || name == "DATABASE_URL" {
            command.env_remove(name.as_ref());
        }
    }
    command
        .env("DALSTON_DATA_DIR", folder.join("data"))
        .stdin(Stdio::null());
}

fn spawn(folder: &Path, port: u16) -> Child {
    let output = File::options()
        .create(true)
        .append(true)
        .open(folder.join("output"))
        .unwrap();
    let mut command = Command::new(DALSTON);
    clean(&mut command, folder);
    command
        .arg("serve")
        .env("DALSTON_PORT", port.to_string())
        .stdout(output.try_clone().unwrap())
        .stderr(output);
    // SAFETY: an async-signal-safe call; a test that is interrupted leaves no server behind.
    unsafe {
        command.pre_exec(
            || match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            },
        );
    }
    command.spawn().unwrap()
}

fn alive(pid: u32) -> bool {
    // A zombie has ended: only its parent has not noticed yet.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn the_first_start_prints_a_key_that_clients_on_the_folder_then_use() {
    let mut served = Served::new();
    let output = served.output();
    assert!(
        output.contains(&format!("http://127.0.0.1:{}/docs", served.port)),
        "{output}"
    );
    let key = eventually("the key to be printed", || {
        let output = served.output();
        let start = output.find("dk_")?;
        output.get(start..start + 46).map(str::to_owned)
    });
    let file = served.folder().join("data/admin.key");
    assert_eq!(fs::read_to_string(&file).unwrap().trim(), key);
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );

    let listed = served.client(&["keys", "list", "--json"]);
    assert!(
        listed.status.success(),
        "{}",
        String::from_utf8_lossy(&listed.stderr)
    );
    assert!(String::from_utf8_lossy(&listed.stdout).contains(&key[..10]));
    let user = served.client(&["psql", "-XAtc", "select current_user"]);
    assert_eq!(
        String::from_utf8_lossy(&user.stdout),
        "dalston\n",
        "{}",
        String::from_utf8_lossy(&user.stderr)
    );

    kill(served.child.id(), libc::SIGTERM);
    assert!(served.child.wait().unwrap().success());
    served.start_again(2);
    assert_eq!(
        served.output().matches(&key).count(),
        1,
        "the key is shown once"
    );
}

#[test]
fn sigterm_stops_everything_and_exits_zero() {
    let mut served = Served::new();
    let (database, worker) = (
        served.child_named("postgres"),
        served.child_named("dalston"),
    );
    kill(served.child.id(), libc::SIGTERM);
    assert!(served.child.wait().unwrap().success());
    assert!(
        !alive(database) && !alive(worker),
        "nothing outlives the server"
    );
    assert!(
        !served
            .folder()
            .join("data/postgres/data/postmaster.pid")
            .exists(),
        "the database was shut down"
    );
    assert!(!served.folder().join("data/server.url").exists());
}

#[test]
fn a_killed_worker_is_replaced_while_the_api_goes_on() {
    let served = Served::new();
    let first = served.child_named("dalston");
    kill(first, libc::SIGKILL);
    eventually("another worker", || {
        served
            .children()
            .into_iter()
            .find(|(pid, comm)| comm == "dalston" && *pid != first)
    });
    let status = served.client(&["status"]);
    assert!(
        status.status.success(),
        "{}",
        String::from_utf8_lossy(&status.stderr)
    );
}

#[test]
fn after_kill_9_everything_dies_and_the_next_start_recovers() {
    let mut served = Served::new();
    let (database, worker) = (
        served.child_named("postgres"),
        served.child_named("dalston"),
    );
    let made = served.client(&["keys", "create", "--name", "kept"]);
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    kill(served.child.id(), libc::SIGKILL);
    served.child.wait().unwrap();
    eventually("database and worker to follow", || {
        (!alive(database) && !alive(worker)).then_some(())
    });
    served.start_again(2);
    let listed = served.client(&["keys", "list"]);
    assert!(
        String::from_utf8_lossy(&listed.stdout).contains("kept"),
        "{}",
        String::from_utf8_lossy(&listed.stderr)
    );
}

#[test]
fn a_second_server_on_the_folder_is_refused_with_the_first_ones_process_id() {
    let served = Served::new();
    let mut command = Command::new(DALSTON);
    clean(&mut command, served.folder());
    let port = TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let second = command
        .args(["serve", "--port", &port.to_string()])
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{message}");
    assert!(
        message.contains(&served.child.id().to_string()) && message.contains("DALSTON_DATA_DIR"),
        "{message}"
    );
}
