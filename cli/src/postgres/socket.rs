//! A name for the socket folder that fits into a unix socket address.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use super::PostgresError;
use super::account::effective_uid;

/// Bytes in `sockaddr_un.sun_path`, terminator included.
const ADDRESS_BYTES: usize = 108;
/// The longest name PostgreSQL puts into the folder.
const SOCKET_NAME: &str = "/.s.PGSQL.5432";

/// `folder` itself when clients can connect through it, else a short link to it in a private folder of ours. The link's
/// place follows from `folder`, so every process of this user finds the same one.
pub(super) fn reachable(folder: &Path) -> Result<PathBuf, PostgresError> {
    if folder.as_os_str().len() + SOCKET_NAME.len() < ADDRESS_BYTES {
        return Ok(folder.to_owned());
    }
    let mut hasher = DefaultHasher::new();
    folder.hash(&mut hasher);
    let uid = effective_uid();
    let private = std::env::temp_dir().join(format!("dalston-{uid}-{:016x}", hasher.finish()));
    let shown = private.display().to_string();
    match fs::DirBuilder::new().mode(0o700).create(&private) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(PostgresError::Io {
                what: format!("creating {shown}"),
                source: error,
            });
        }
        _ => {}
    }
    // Somebody else's folder of this name could lead our connections astray.
    let found =
        fs::symlink_metadata(&private).map_err(PostgresError::io(format!("reading {shown}")))?;
    if !found.is_dir() || found.uid() != uid || found.mode() & 0o022 != 0 {
        return Err(PostgresError::Failed {
            what: "using a short socket folder",
            detail: format!("{shown} exists and is not ours; remove it"),
        });
    }
    let link = private.join("socket");
    match symlink(folder, &link) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(PostgresError::Io {
            what: format!("linking {}", link.display()),
            source: error,
        }),
        _ => Ok(link),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_short_path_is_used_as_it_is() {
        assert_eq!(
            reachable(Path::new("/data/postgres/socket")).unwrap(),
            Path::new("/data/postgres/socket")
        );
    }

    #[test]
    fn a_long_path_is_reached_through_the_same_short_link_every_time() {
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("x".repeat(120)).join("socket");
        fs::create_dir_all(&long).unwrap();
        let short = reachable(&long).unwrap();
        assert_eq!(short, reachable(&long).unwrap());
        assert!(short.as_os_str().len() + SOCKET_NAME.len() < ADDRESS_BYTES);
        assert_eq!(short.canonicalize().unwrap(), long.canonicalize().unwrap());
        fs::remove_dir_all(short.parent().unwrap()).unwrap();
    }
}
