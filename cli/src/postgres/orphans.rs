//! What an earlier server left behind when it, or the process that started it, was killed.
//!
//! A server whose starter died shuts itself down within a moment (parent-death signal); backends whose postmaster died end
//! by themselves. Both are waited for before a new server starts on the same files.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::PostgresError;

/// How long an orphan may take for its own shutdown, then for an ordered one, then for a forced one.
const PATIENCE: [(Duration, Option<libc::c_int>); 4] = [
    (Duration::from_secs(1), None),
    (Duration::from_secs(10), Some(libc::SIGINT)),
    (Duration::from_secs(5), Some(libc::SIGQUIT)),
    (Duration::from_secs(5), Some(libc::SIGKILL)),
];

/// Returns when no process works in the cluster `data` any more. The caller holds the folder's lock, so whatever still runs
/// there has lost its owner.
pub(super) fn clear(data: &Path) -> Result<(), PostgresError> {
    let Ok(data) = data.canonicalize() else {
        return Ok(());
    };
    for (patience, signal) in PATIENCE {
        let deadline = Instant::now() + patience;
        let orphans = working_in(&data);
        if orphans.is_empty() {
            return forget_stale_pid(&data);
        }
        if let Some(signal) = signal {
            tracing::warn!(
                ?orphans,
                signal,
                "An orphaned PostgreSQL still uses the data folder; stopping it"
            );
            for pid in &orphans {
                // SAFETY: sends a signal; the process was just seen working in our data folder.
                unsafe { libc::kill(*pid, signal) };
            }
        }
        while Instant::now() < deadline && !working_in(&data).is_empty() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let orphans = working_in(&data);
    if orphans.is_empty() {
        return forget_stale_pid(&data);
    }
    Err(PostgresError::Failed {
        what: "stopping the previous PostgreSQL",
        detail: format!("processes {orphans:?} do not end"),
    })
}

/// PostgreSQL processes whose working folder is `data`: a postmaster and all its children change into it.
fn working_in(data: &Path) -> Vec<libc::pid_t> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            // The name spares an operator's shell that happens to stand in the folder.
            let is_server = fs::read_to_string(entry.path().join("comm"))
                .ok()?
                .trim_end()
                == "postgres";
            (is_server && fs::read_link(entry.path().join("cwd")).ok()? == data).then_some(pid)
        })
        .collect()
}

/// Removes a `postmaster.pid` whose process id now belongs to a program elsewhere. PostgreSQL keeps off such a file when the
/// other program has the same user, which happens in containers, where low process ids come back after every restart.
fn forget_stale_pid(data: &Path) -> Result<(), PostgresError> {
    let path = data.join("postmaster.pid");
    match fs::remove_file(&path) {
        Ok(()) => {
            tracing::info!(path = %path.display(), "The last PostgreSQL ended without a shutdown; it recovers now");
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(PostgresError::Io {
            what: format!("removing {}", path.display()),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::process::Command;

    use super::*;

    #[test]
    fn a_server_left_in_the_folder_is_ended_and_its_pid_file_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().canonicalize().unwrap();
        fs::write(data.join("postmaster.pid"), "1\n").unwrap();
        std::os::unix::fs::symlink("/bin/sleep", data.join("postgres")).unwrap();
        let mut orphan = Command::new(data.join("postgres"))
            .arg("600")
            .current_dir(&data)
            .spawn()
            .unwrap();
        let mut shell = Command::new("/bin/sleep")
            .arg("600")
            .current_dir(&data)
            .spawn()
            .unwrap();
        let reaper = std::thread::spawn(move || orphan.wait().unwrap());
        clear(&data).unwrap();
        assert!(!reaper.join().unwrap().success());
        assert!(!data.join("postmaster.pid").exists());
        assert_eq!(
            shell.try_wait().unwrap(),
            None,
            "a shell in the folder is spared"
        );
        shell.kill().unwrap();
        shell.wait().unwrap();
    }
}
