//! Finds PostgreSQL server binaries: named folders first, then `PATH`, then where distributions put them.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::PostgresError;

/// The oldest PostgreSQL the schema runs on.
pub const OLDEST_MAJOR: u32 = 15;

/// One installed server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// The folder with `postgres` and `initdb`, symbolic links resolved.
    pub directory: PathBuf,
    /// Its major version, for example 17.
    pub major: u32,
}

/// What a search found, and where it looked.
#[derive(Debug, Default)]
pub(super) struct Installed {
    pub found: Vec<Binaries>,
    pub looked_in: Vec<PathBuf>,
}

/// Every server on this machine, `search` folders first.
pub(super) fn installed(search: &[PathBuf]) -> Installed {
    let mut installed = Installed::default();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = search
        .iter()
        .cloned()
        .chain(fetched())
        .chain(std::env::split_paths(&path))
        .chain(versioned("/usr/lib/postgresql", ""))
        .chain(versioned("/usr", "pgsql-"))
        .chain(["/usr/local/pgsql/bin".into(), "/opt/homebrew/bin".into()]);
    for candidate in candidates {
        installed.looked_in.push(candidate.clone());
        let Some(directory) = real_directory(&candidate) else {
            continue;
        };
        if installed
            .found
            .iter()
            .any(|known| known.directory == directory)
        {
            continue;
        }
        if let Some(major) = major_of(&directory.join("postgres")) {
            installed.found.push(Binaries { directory, major });
        }
    }
    installed
}

/// Picks the server for a cluster written by major version `on_disk`, or the first usable one for a new cluster.
pub(super) fn choose(
    installed: &Installed,
    on_disk: Option<u32>,
    directory: &Path,
) -> Result<Binaries, PostgresError> {
    let usable: Vec<&Binaries> = installed
        .found
        .iter()
        .filter(|binaries| binaries.major >= OLDEST_MAJOR)
        .collect();
    let Some(first) = usable.first() else {
        let looked_in = installed
            .looked_in
            .iter()
            .map(|path| path.display().to_string())
            .collect::<Vec<_>>()
            .join(", ");
        return Err(PostgresError::NotFound { looked_in });
    };
    let Some(on_disk) = on_disk else {
        return Ok((*first).clone());
    };
    usable
        .iter()
        .find(|binaries| binaries.major == on_disk)
        .map(|binaries| (*binaries).clone())
        .ok_or_else(|| PostgresError::Version {
            directory: directory.to_owned(),
            on_disk,
            found: usable
                .iter()
                .map(|binaries| binaries.major.to_string())
                .collect::<Vec<_>>()
                .join(", "),
        })
}

/// The folder that really holds the programs: distributions link single programs into `PATH`, and the server finds its
/// libraries from its own place.
fn real_directory(candidate: &Path) -> Option<PathBuf> {
    let postgres = candidate.join("postgres").canonicalize().ok()?;
    let directory = postgres.parent()?;
    directory
        .join("initdb")
        .exists()
        .then(|| directory.to_owned())
}

/// Where `make setup` puts a server that no system package brought: `.runtime` of this folder or one above it, and for root,
/// whose folders the server's user may be unable to enter, `/opt`.
fn fetched() -> Vec<PathBuf> {
    let here = std::env::current_dir().unwrap_or_default();
    let runtimes = here
        .ancestors()
        .map(|folder| folder.join(".runtime/postgresql/bin"));
    runtimes
        .filter(|bin| bin.exists())
        .take(1)
        .chain(["/opt/dalston/postgresql/bin".into()])
        .collect()
}

/// The `bin` folders of side-by-side installations: children of `parent` whose name is `prefix` and a number, newest first.
fn versioned(parent: &str, prefix: &str) -> Vec<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let number = entry
                .file_name()
                .to_str()?
                .strip_prefix(prefix)?
                .parse()
                .ok()?;
            Some((number, entry.path().join("bin")))
        })
        .collect();
    versions.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    versions.into_iter().map(|(_, bin)| bin).collect()
}

fn major_of(postgres: &Path) -> Option<u32> {
    let output = Command::new(postgres).arg("--version").output().ok()?;
    parse_major(&String::from_utf8_lossy(&output.stdout))
}

/// The major version in `postgres (PostgreSQL) 15.20 (Debian …)` or `… 18beta1`.
fn parse_major(version: &str) -> Option<u32> {
    let number = version.split_whitespace().nth(2)?;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn major_versions_are_read_from_every_spelling() {
        let check = |text: &str, major: Option<u32>| assert_eq!(parse_major(text), major, "{text}");
        check(
            "postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)",
            Some(15),
        );
        check("postgres (PostgreSQL) 18.4", Some(18));
        check("postgres (PostgreSQL) 19beta2", Some(19));
        check("", None);
    }

    fn server(major: u32) -> Binaries {
        Binaries {
            directory: format!("/opt/pg{major}").into(),
            major,
        }
    }

    #[test]
    fn a_cluster_gets_the_server_that_wrote_it() {
        let installed = Installed {
            found: vec![server(17), server(15)],
            looked_in: vec![],
        };
        let folder = Path::new("/data");
        assert_eq!(choose(&installed, None, folder).unwrap().major, 17);
        assert_eq!(choose(&installed, Some(15), folder).unwrap().major, 15);
        let error = choose(&installed, Some(16), folder)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("made by PostgreSQL 16") && error.contains("17, 15"),
            "{error}"
        );
    }

    #[test]
    fn a_server_too_old_counts_as_missing() {
        let installed = Installed {
            found: vec![server(13)],
            looked_in: vec!["/usr/bin".into()],
        };
        let error = choose(&installed, None, Path::new("/data"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("15 or newer")
                && error.contains("/usr/bin")
                && error.contains("make setup"),
            "{error}"
        );
    }
}
