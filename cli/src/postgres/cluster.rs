//! The cluster on disk: where it lies, how it is made once, and who may connect to it.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::account::Account;
use super::binaries::Binaries;
use super::spawn::Launch;
use super::{Durability, PostgresError};

/// The database role that owns everything.
pub(super) const ROLE: &str = "dalston";
/// The database that holds the product's tables.
pub(super) const DATABASE: &str = "dalston";

/// Name of the map in `pg_ident.conf` from operating-system users to [`ROLE`].
const IDENT_MAP: &str = "dalston";

pub(super) fn data(directory: &Path) -> PathBuf {
    directory.join("data")
}

pub(super) fn socket(directory: &Path) -> PathBuf {
    directory.join("socket")
}

/// The major version that wrote the cluster in `directory`, or `None` when there is no cluster yet.
pub(super) fn version(directory: &Path) -> Result<Option<u32>, PostgresError> {
    let path = data(directory).join("PG_VERSION");
    match fs::read_to_string(&path) {
        Ok(text) => {
            let major = text
                .trim()
                .split('.')
                .next()
                .and_then(|major| major.parse().ok());
            major.map(Some).ok_or(PostgresError::Failed {
                what: "reading PG_VERSION",
                detail: format!("{} holds {text:?}", path.display()),
            })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PostgresError::Io {
            what: format!("reading {}", path.display()),
            source,
        }),
    }
}

/// Makes the folders, the cluster if there is none, and the access rules for today's user.
pub(super) fn prepare(
    directory: &Path,
    binaries: &Binaries,
    account: &Account,
    durability: Durability,
) -> Result<(), PostgresError> {
    // The server's user must get through this folder, not read it.
    set_mode(directory, 0o711)?;
    own_folder(&socket(directory), account)?;
    if version(directory)?.is_none() {
        create(directory, binaries, account, durability)?;
    }
    write_access_rules(directory, account)
}

/// Initialises into `data.new` and renames, so that a start interrupted half-way leaves nothing that looks like a cluster.
fn create(
    directory: &Path,
    binaries: &Binaries,
    account: &Account,
    durability: Durability,
) -> Result<(), PostgresError> {
    let new = directory.join("data.new");
    if new.exists() {
        fs::remove_dir_all(&new)
            .map_err(PostgresError::io(format!("removing {}", new.display())))?;
    }
    let mut made = initdb(directory, &new, binaries, account, "C.UTF-8");
    if made
        .as_ref()
        .is_err_and(|error| error.to_string().contains("locale"))
    {
        // Systems without C.UTF-8: plain C differs only in the case rules of letters beyond ASCII.
        fs::remove_dir_all(&new)
            .map_err(PostgresError::io(format!("removing {}", new.display())))?;
        made = initdb(directory, &new, binaries, account, "C");
    }
    made?;
    create_database(directory, binaries, account)?;
    // Before the rename: a cluster that has its name is whole, whatever happens to the machine.
    if durability == Durability::Full {
        sync_file_system(directory)?;
    }
    fs::rename(&new, data(directory))
        .map_err(PostgresError::io(format!("renaming {}", new.display())))
}

/// Writes everything the file system of `directory` holds back to disk: one call instead of one for each of the thousand
/// files of a new cluster.
fn sync_file_system(directory: &Path) -> Result<(), PostgresError> {
    let shown = directory.display();
    let folder =
        fs::File::open(directory).map_err(PostgresError::io(format!("opening {shown}")))?;
    // SAFETY: a system call on a descriptor that is open for its duration.
    if unsafe { libc::syncfs(folder.as_raw_fd()) } == -1 {
        return Err(PostgresError::Io {
            what: format!("syncing {shown}"),
            source: std::io::Error::last_os_error(),
        });
    }
    Ok(())
}

fn initdb(
    directory: &Path,
    new: &Path,
    binaries: &Binaries,
    account: &Account,
    locale: &str,
) -> Result<(), PostgresError> {
    own_folder(new, account)?;
    let launch = Launch::new(directory, account)?;
    let mut command = launch.command(&binaries.directory.join("initdb"));
    command
        .arg("--pgdata")
        .arg(launch.inside("data.new"))
        .args([
            "--username",
            ROLE,
            "--auth=peer",
            "--encoding=UTF8",
            "--no-instructions",
            // All of it goes to disk at once, in `create`.
            "--no-sync",
        ])
        .arg(format!("--locale={locale}"));
    run("initdb", command, "")
}

/// Creates [`DATABASE`] with the server in single-user mode, which needs no connection and no client program.
fn create_database(
    directory: &Path,
    binaries: &Binaries,
    account: &Account,
) -> Result<(), PostgresError> {
    let launch = Launch::new(directory, account)?;
    let mut command = launch.command(&binaries.directory.join("postgres"));
    command
        .args(["--single", "-F", "-j", "-D"])
        .arg(launch.inside("data.new"))
        .arg("postgres");
    run(
        "creating the database",
        command,
        &format!("create database {DATABASE};\n"),
    )
}

fn run(what: &'static str, mut command: Command, input: &str) -> Result<(), PostgresError> {
    let failed = |detail: String| PostgresError::Failed { what, detail };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("{}: {error}", command.get_program().display())))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(input.as_bytes())
            .map_err(|error| failed(error.to_string()))?;
    }
    let output = child
        .wait_with_output()
        .map_err(|error| failed(error.to_string()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    // Single-user mode exits 0 even when a statement failed.
    if !output.status.success() || said.contains("ERROR:") || said.contains("FATAL:") {
        return Err(failed(format!("{} ({})", said.trim(), output.status)));
    }
    Ok(())
}

/// Lets the admitted users in as [`ROLE`]. Written at every start, because the user who starts us may change. The files lie
/// outside the cluster, where only we write.
fn write_access_rules(directory: &Path, account: &Account) -> Result<(), PostgresError> {
    write(
        &directory.join("pg_hba.conf"),
        &format!("local all all peer map={IDENT_MAP}\n"),
    )?;
    write(
        &directory.join("pg_ident.conf"),
        &ident_lines(&account.admitted()),
    )
}

fn ident_lines(users: &[String]) -> String {
    users
        .iter()
        .map(|user| format!("{IDENT_MAP} \"{user}\" {ROLE}\n"))
        .collect()
}

fn write(path: &Path, text: &str) -> Result<(), PostgresError> {
    fs::write(path, text).map_err(PostgresError::io(format!("writing {}", path.display())))?;
    set_mode(path, 0o644)
}

fn own_folder(path: &Path, account: &Account) -> Result<(), PostgresError> {
    let shown = path.display().to_string();
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(PostgresError::io(format!("creating {shown}")))?;
    if account.change {
        chown(path, Some(account.uid), Some(account.gid)).map_err(PostgresError::io(format!(
            "giving {shown} to {}",
            account.name
        )))?;
    }
    set_mode(path, 0o700)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), PostgresError> {
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(PostgresError::io(format!(
        "setting the mode of {}",
        path.display()
    )))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn every_admitted_user_becomes_the_role() {
        let lines = ident_lines(&["postgres".to_owned(), "root".to_owned()]);
        assert_eq!(
            lines,
            "dalston \"postgres\" dalston\ndalston \"root\" dalston\n"
        );
    }

    #[test]
    fn a_folder_without_a_cluster_has_no_version() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(version(folder.path()).unwrap(), None);
        fs::create_dir(data(folder.path())).unwrap();
        fs::write(data(folder.path()).join("PG_VERSION"), "17\n").unwrap();
        assert_eq!(version(folder.path()).unwrap(), Some(17));
        fs::write(data(folder.path()).join("PG_VERSION"), "?").unwrap();
        assert!(version(folder.path()).is_err());
    }
}
