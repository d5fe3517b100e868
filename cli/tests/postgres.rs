//! The embedded PostgreSQL on real processes: first start, restart, a killed server, a killed starter, two starters.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dalston_cli::postgres::{self, Durability, Options, Postgres, PostgresError};

fn options(folder: &Path) -> Options {
    Options {
        durability: Durability::None,
        ..Options::new(folder)
    }
}

/// Runs one statement with the server's own psql.
fn query(server: &Postgres, sql: &str) -> String {
    let psql = [server.bin().join("psql"), PathBuf::from("psql")]
        .into_iter()
        .find(|psql| Command::new(psql).arg("-V").output().is_ok());
    let output = Command::new(psql.unwrap())
        .args(["-XAtc", sql, server.url()])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} within 30 s");
        std::thread::yield_now();
    }
}

fn kill(pid: u32, signal: i32) {
    // SAFETY: signals a server this test started.
    assert_eq!(
        unsafe { libc::kill(i32::try_from(pid).unwrap(), signal) },
        0
    );
}

#[test]
fn what_was_committed_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let server = Postgres::start(options(folder.path())).unwrap();
    assert_eq!(
        query(
            &server,
            "create table kept as select 7 as x; select current_user, current_database()"
        )
        .lines()
        .last(),
        Some("dalston|dalston")
    );
    assert_eq!(query(&server, "show listen_addresses"), "");
    assert_eq!(
        postgres::running(folder.path()).as_deref(),
        Some(server.url())
    );
    server.stop();
    assert_eq!(postgres::running(folder.path()), None);
    assert!(
        !folder.path().join("data/postmaster.pid").exists(),
        "a clean shutdown"
    );
    let server = Postgres::start(options(folder.path())).unwrap();
    assert_eq!(query(&server, "select x from kept"), "7");
}

#[test]
fn a_killed_server_is_started_again_with_its_data() {
    let folder = tempfile::tempdir().unwrap();
    let server = Postgres::start(options(folder.path())).unwrap();
    query(&server, "create table kept as select 7 as x");
    let first = server.pid().unwrap();
    kill(first, libc::SIGKILL);
    eventually("another server answers", || {
        (server.pid().is_some_and(|pid| pid != first) && postgres::running(folder.path()).is_some())
            .then_some(())
    });
    assert_eq!(query(&server, "select x from kept"), "7");
}

#[test]
fn a_second_server_in_the_same_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let _server = Postgres::start(options(folder.path())).unwrap();
    let error = Postgres::start(options(folder.path())).unwrap_err();
    assert!(matches!(error, PostgresError::InUse { .. }), "{error}");
    assert!(
        error.to_string().contains(&std::process::id().to_string()),
        "{error}"
    );
}

#[test]
fn a_setting_that_the_server_refuses_is_reported_in_its_own_words() {
    let folder = tempfile::tempdir().unwrap();
    let settings = vec![("max_connections".to_owned(), "many".to_owned())];
    let error = Postgres::start(Options {
        settings,
        ..options(folder.path())
    })
    .unwrap_err()
    .to_string();
    assert!(
        error.contains("max_connections") && error.contains("many"),
        "{error}"
    );
}

#[test]
fn a_cluster_of_another_version_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("data")).unwrap();
    std::fs::write(folder.path().join("data/PG_VERSION"), "12\n").unwrap();
    let error = Postgres::start(options(folder.path()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("made by PostgreSQL 12"), "{error}");
}

/// Not a test of its own: the process that `a_server_dies_with_its_starter` kills.
#[test]
fn starter_process() {
    let Some(folder) = std::env::var_os("DALSTON_TEST_STARTER") else {
        return;
    };
    let server = Postgres::start(options(Path::new(&folder))).unwrap();
    query(&server, "create table kept as select 7 as x");
    std::fs::write(
        Path::new(&folder).join("pid"),
        server.pid().unwrap().to_string(),
    )
    .unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn a_server_dies_with_its_starter_and_the_next_start_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let mut starter = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "starter_process"])
        .env("DALSTON_TEST_STARTER", folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pid: u32 = eventually("the starter reports its server", || {
        std::fs::read_to_string(folder.path().join("pid"))
            .ok()?
            .parse()
            .ok()
    });
    starter.kill().unwrap();
    starter.wait().unwrap();
    // At once, while the orphan may still be shutting down.
    let server = Postgres::start(options(folder.path())).unwrap();
    assert_ne!(server.pid(), Some(pid));
    assert_eq!(query(&server, "select x from kept"), "7");
}
