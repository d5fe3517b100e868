//! The worker as a child process: started, started again when it dies, stopped in good order.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Context;
use secrecy::{ExposeSecret, SecretString};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::database::Database;

/// First and longest pause before a dead worker is started again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// A worker that ran this long was well: the next pause is short again.
const WELL: Duration = Duration::from_secs(60);
/// What a stopping worker gets beyond its own grace before it is killed.
const EXTRA_GRACE: Duration = Duration::from_secs(10);

/// How to start the worker.
#[derive(Debug)]
pub struct WorkerProcess {
    program: PathBuf,
    identity: String,
    database_url: SecretString,
    data_dir: PathBuf,
    patience: Duration,
}

impl WorkerProcess {
    /// A worker on `database`, from this very program.
    pub fn new(config: &Config, database: &Database) -> anyhow::Result<WorkerProcess> {
        Ok(WorkerProcess {
            program: std::env::current_exe().context("finding this program for the worker")?,
            identity: identity(&config.data_dir)?,
            database_url: database.url().clone(),
            data_dir: config.data_dir.clone(),
            patience: config.shutdown_grace + EXTRA_GRACE,
        })
    }

    /// Keeps a worker running until `shutdown`, then waits for it to finish or give back its tasks. Must run on a thread
    /// that lives as long as the process: the worker is killed when its spawning thread ends.
    pub async fn supervise(&self, shutdown: &CancellationToken) -> anyhow::Result<()> {
        let mut pause = BACKOFF.0;
        while !shutdown.is_cancelled() {
            let started = Instant::now();
            match self.spawn() {
                Ok(mut child) => {
                    tokio::select! {
                        status = child.wait() => report(&status.context("waiting for the worker")?),
                        () = shutdown.cancelled() => return self.stop(child).await,
                    }
                }
                Err(error) => tracing::error!(
                    error = format!("{error:#}"),
                    "The worker could not be started"
                ),
            }
            if started.elapsed() > WELL {
                pause = BACKOFF.0;
            }
            tracing::info!(
                pause_ms = pause.as_millis() as u64,
                "Starting the worker again"
            );
            tokio::select! {
                () = sleep(pause) => {}
                () = shutdown.cancelled() => {}
            }
            pause = (pause * 2).min(BACKOFF.1);
        }
        Ok(())
    }

    fn spawn(&self) -> anyhow::Result<Child> {
        let mut command = Command::new(&self.program);
        command
            .args(["worker", "--identity", &self.identity])
            .env("DATABASE_URL", self.database_url.expose_secret())
            .env("DALSTON_DATA_DIR", &self.data_dir)
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true);
        let parent = std::process::id();
        // SAFETY: the closure runs between fork and exec and makes only async-signal-safe system calls.
        unsafe { command.pre_exec(move || in_child(parent)) };
        command
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))
    }

    async fn stop(&self, mut child: Child) -> anyhow::Result<()> {
        if let Some(pid) = child.id() {
            // SAFETY: signals a child that is not waited for yet, so its pid is its own.
            unsafe { libc::kill(pid.cast_signed(), libc::SIGTERM) };
        }
        match timeout(self.patience, child.wait()).await {
            Ok(status) => report_stop(&status.context("waiting for the worker")?),
            Err(_) => {
                tracing::warn!(
                    "The worker does not stop; killing it. Its tasks go to the next worker when their leases end"
                );
                child.kill().await.context("killing the worker")?;
            }
        }
        Ok(())
    }
}

/// What is the same for every worker that `serve` starts on this data folder of this host, and for no other.
fn identity(data_dir: &Path) -> anyhow::Result<String> {
    let host =
        std::fs::read_to_string("/proc/sys/kernel/hostname").context("reading the host's name")?;
    Ok(format!("{}:{}#serve", host.trim(), data_dir.display()))
}

fn in_child(parent: u32) -> std::io::Result<()> {
    // SAFETY: system calls on plain integers.
    unsafe {
        // Out of the terminal's process group: Ctrl-C reaches only the parent, which stops things in order.
        if libc::setsid() == -1 {
            return Err(std::io::Error::last_os_error());
        }
        // Without its parent the worker has no database either; leases and rescue take care of its tasks.
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == -1 {
            return Err(std::io::Error::last_os_error());
        }
        if libc::getppid().cast_unsigned() != parent {
            return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
        }
    }
    Ok(())
}

fn report(status: &ExitStatus) {
    if status.success() {
        tracing::info!("The worker ended");
    } else {
        tracing::error!(%status, "The worker died; running tasks are retried");
    }
}

fn report_stop(status: &ExitStatus) {
    if status.success() {
        tracing::debug!("The worker stopped");
    } else {
        tracing::warn!(%status, "The worker did not stop in good order");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// A supervisor of a shell script that stands in for the worker.
    fn stand_in(folder: &std::path::Path, script: &str) -> WorkerProcess {
        use std::os::unix::fs::PermissionsExt;
        let program = folder.join("worker");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        WorkerProcess {
            program,
            identity: "test".to_owned(),
            database_url: "postgres://nowhere".to_owned().into(),
            data_dir: folder.to_owned(),
            patience: Duration::from_secs(30),
        }
    }

    async fn until(what: &str, mut look: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !look() {
            assert!(Instant::now() < deadline, "{what} within 30 s");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_worker_that_dies_is_started_again() {
        let folder = tempfile::tempdir().unwrap();
        let starts = folder.path().join("starts");
        let worker = stand_in(
            folder.path(),
            "echo \"$@\" >> \"$DALSTON_DATA_DIR/starts\"; exit 3",
        );
        let shutdown = CancellationToken::new();
        let twice = async {
            until("two starts", || {
                std::fs::read_to_string(&starts).is_ok_and(|text| text.lines().count() >= 2)
            })
            .await;
            shutdown.cancel();
        };
        let (ended, ()) = tokio::join!(worker.supervise(&shutdown), twice);
        ended.unwrap();
        assert!(
            std::fs::read_to_string(&starts)
                .unwrap()
                .starts_with("worker --identity test\n")
        );
    }

    #[tokio::test]
    async fn a_stopping_worker_may_finish() {
        let folder = tempfile::tempdir().unwrap();
        let (ready, finished) = (folder.path().join("ready"), folder.path().join("finished"));
        let script = "trap 'touch \"$DALSTON_DATA_DIR/finished\"; exit 0' TERM; touch \"$DALSTON_DATA_DIR/ready\"; while :; do :; done";
        let worker = stand_in(folder.path(), script);
        let shutdown = CancellationToken::new();
        let stop = async {
            until("the worker is ready", || ready.exists()).await;
            shutdown.cancel();
        };
        let (ended, ()) = tokio::join!(worker.supervise(&shutdown), stop);
        ended.unwrap();
        assert!(finished.exists(), "it was asked, not killed");
    }
}
