//! Which operating-system user the server runs as: ourselves, or an unprivileged one when root starts us.

use std::ffi::{CStr, CString};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::PostgresError;

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// True when the server must change to this user first, which only root can do.
    pub change: bool,
}

impl Account {
    /// The account for a server in `directory`. Root runs it as the folder's owner when that is an ordinary user (so that a
    /// folder keeps its owner), else as `postgres`, else as `nobody`.
    pub(super) fn for_directory(directory: &Path) -> Result<Account, PostgresError> {
        let uid = effective_uid();
        if uid != 0 {
            return Ok(by_uid(uid).unwrap_or_else(|| Account {
                name: uid.to_string(),
                uid,
                gid: effective_gid(),
                change: false,
            }));
        }
        let owner = std::fs::metadata(super::cluster::data(directory))
            .ok()
            .map(|data| data.uid());
        owner
            .filter(|&uid| uid != 0)
            .and_then(by_uid)
            .or_else(|| by_name("postgres"))
            .or_else(|| by_name("nobody"))
            .map(|account| Account {
                change: true,
                ..account
            })
            .ok_or(PostgresError::NoAccount)
    }

    /// The names that may connect: whoever started us, and the server's own user.
    pub(super) fn admitted(&self) -> Vec<String> {
        let mut names = vec![self.name.clone()];
        if let Some(starter) = by_uid(effective_uid()).filter(|starter| starter.name != self.name) {
            names.push(starter.name);
        }
        names
    }
}

pub(super) fn effective_uid() -> u32 {
    // SAFETY: takes no arguments and cannot fail.
    unsafe { libc::geteuid() }
}

fn effective_gid() -> u32 {
    // SAFETY: takes no arguments and cannot fail.
    unsafe { libc::getegid() }
}

fn by_name(name: &str) -> Option<Account> {
    let name = CString::new(name).ok()?;
    // SAFETY: `name` outlives the call; the other pointers are passed on as `look_up` documents.
    look_up(|entry, buffer, result| unsafe {
        libc::getpwnam_r(
            name.as_ptr(),
            entry,
            buffer.as_mut_ptr(),
            buffer.len(),
            result,
        )
    })
}

fn by_uid(uid: u32) -> Option<Account> {
    // SAFETY: the pointers are passed on as `look_up` documents.
    look_up(|entry, buffer, result| unsafe {
        libc::getpwuid_r(uid, entry, buffer.as_mut_ptr(), buffer.len(), result)
    })
}

/// Runs one of the reentrant passwd calls with memory that outlives it and copies what it found.
fn look_up(
    call: impl Fn(*mut libc::passwd, &mut [libc::c_char], *mut *mut libc::passwd) -> libc::c_int,
) -> Option<Account> {
    let mut buffer = vec![0; 16 * 1024];
    // SAFETY: `passwd` is a C struct of integers and pointers, for which all zeroes is a valid value.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    let mut result = std::ptr::null_mut();
    let status = call(&raw mut entry, &mut buffer, &raw mut result);
    if status != 0 || result.is_null() {
        return None;
    }
    // SAFETY: on success `pw_name` points at a terminated string inside `buffer`, which is still alive.
    let name = unsafe { CStr::from_ptr(entry.pw_name) }
        .to_str()
        .ok()?
        .to_owned();
    Some(Account {
        name,
        uid: entry.pw_uid,
        gid: entry.pw_gid,
        change: false,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn root_is_user_zero_by_either_key() {
        assert_eq!(by_uid(0).unwrap().name, "root");
        assert_eq!(by_name("root").unwrap().uid, 0);
        assert_eq!(by_name("no-such-user-here"), None);
    }

    #[test]
    fn the_server_never_runs_as_root() {
        let folder = tempfile::tempdir().unwrap();
        let account = Account::for_directory(folder.path()).unwrap();
        assert_ne!(account.uid, 0);
        assert_eq!(account.change, effective_uid() == 0);
    }
}
