//! Starts PostgreSQL's programs as the right user, in a session of their own, dying with us.
//!
//! The server's user may be unable to reach the data folder by its path (root keeping it under `/root`). So the folder is
//! opened by us, inherited as a descriptor, and named to the programs as `/proc/self/fd/N/…`, which needs no rights on the
//! folders above. That name is short, too, which a unix socket's path must be.

use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::PostgresError;
use super::account::Account;

/// Environment the programs get; everything else, secrets above all, stays here.
const PASSED_ON: [&str; 4] = ["PATH", "LD_LIBRARY_PATH", "TZ", "TMPDIR"];

/// The open folder and the user that programs are started with.
pub(super) struct Launch {
    folder: File,
    account: Account,
}

impl Launch {
    pub(super) fn new(directory: &Path, account: &Account) -> Result<Launch, PostgresError> {
        let folder = File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(directory)
            .map_err(PostgresError::io(format!(
                "opening {}",
                directory.display()
            )))?;
        Ok(Launch {
            folder,
            account: account.clone(),
        })
    }

    /// The name of `relative` for programs started by [`command`](Launch::command).
    pub(super) fn inside(&self, relative: &str) -> PathBuf {
        PathBuf::from(format!(
            "/proc/self/fd/{}/{relative}",
            self.folder.as_raw_fd()
        ))
    }

    /// A command for `program` that changes user, and gets SIGINT (PostgreSQL's fast shutdown) when the thread that spawns it
    /// ends: spawn it from a thread that lives as long as the program should.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/").env_clear().env("LC_ALL", "C");
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        let folder = self.folder.as_raw_fd();
        let user = self
            .account
            .change
            .then_some((self.account.uid, self.account.gid));
        let parent = std::process::id();
        // SAFETY: the closure runs between fork and exec and makes only async-signal-safe system calls on plain integers.
        unsafe { command.pre_exec(move || in_child(folder, user, parent)) };
        command
    }
}

fn in_child(folder: RawFd, user: Option<(u32, u32)>, parent: u32) -> std::io::Result<()> {
    // SAFETY: plain system calls without memory arguments (`setgroups` gets an empty list).
    unsafe {
        // Keeps the folder open across exec.
        check(libc::fcntl(folder, libc::F_SETFD, 0))?;
        // Out of the terminal's process group: Ctrl-C reaches only us, and we stop things in order.
        check(libc::setsid())?;
        if let Some((uid, gid)) = user {
            check(libc::setgroups(0, std::ptr::null()))?;
            check(libc::setgid(gid))?;
            check(libc::setuid(uid))?;
        }
        // After the change of user, which would clear it.
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGINT))?;
        if libc::getppid().cast_unsigned() != parent {
            return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
        }
    }
    Ok(())
}

fn check(status: libc::c_int) -> std::io::Result<()> {
    if status == -1 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(())
    }
}
