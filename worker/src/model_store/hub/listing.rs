//! What a hub says a repository holds: its two listings, and what a download needs of them.

use reqwest::Url;
use reqwest::header::{HeaderMap, LINK};
use serde::Deserialize;

/// What identifies a file's contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoteHash {
    /// SHA-256 of the contents: large files.
    Sha256(String),
    /// Git's object id, SHA-1 over `blob {size}\0` and the contents: small files.
    GitBlob(String),
}

impl RemoteHash {
    /// The hash as lower-case hex.
    #[must_use]
    pub fn hex(&self) -> &str {
        match self {
            Self::Sha256(hex) | Self::GitBlob(hex) => hex,
        }
    }
}

/// One file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// Path in the repository.
    pub path: String,
    /// Size in bytes, where the hub tells.
    pub size: Option<u64>,
    /// Identity of the contents, where the hub tells.
    pub hash: Option<RemoteHash>,
}

/// A repository at one commit.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Commit, or the revision asked for where the hub does not tell.
    pub commit: String,
    /// Its files.
    pub files: Vec<RemoteFile>,
    /// `model_type` of its configuration, where the hub tells.
    pub model_type: Option<String>,
}

/// The `rel="next"` target of a `Link` header.
pub(super) fn next_page(headers: &HeaderMap, base: &Url) -> Option<Url> {
    let links = headers.get(LINK)?.to_str().ok()?;
    let next = links
        .split(',')
        .find(|link| link.contains("rel=\"next\""))?;
    let target = next.split_once('<')?.1.split_once('>')?.0;
    base.join(target)
        .ok()
        .filter(|next| next.origin() == base.origin())
}

/// `/api/models/{repository}/revision/{revision}?blobs=true`.
#[derive(Default, Deserialize)]
pub(super) struct Info {
    #[serde(default)]
    pub(super) sha: Option<String>,
    #[serde(default)]
    pub(super) siblings: Vec<Sibling>,
    #[serde(default)]
    pub(super) config: Option<RemoteConfig>,
}

/// What the hub tells of a repository's `config.json`.
#[derive(Deserialize)]
pub(super) struct RemoteConfig {
    #[serde(default)]
    pub(super) model_type: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sibling {
    rfilename: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    blob_id: Option<String>,
    #[serde(default)]
    lfs: Option<Lfs>,
}

/// One entry of `/api/models/{repository}/tree/{revision}?recursive=1`.
#[derive(Deserialize)]
pub(super) struct TreeEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    oid: Option<String>,
    #[serde(default)]
    lfs: Option<Lfs>,
}

/// The hub calls the same hash `sha256` in one answer and `oid` in the other.
#[derive(Deserialize)]
struct Lfs {
    #[serde(alias = "oid")]
    sha256: Option<String>,
    #[serde(default)]
    size: Option<u64>,
}

impl Sibling {
    pub(super) fn into_file(self) -> RemoteFile {
        remote_file(self.rfilename, self.size, self.blob_id, self.lfs)
    }
}

impl TreeEntry {
    pub(super) fn into_file(self) -> Option<RemoteFile> {
        (self.kind == "file").then(|| remote_file(self.path, self.size, self.oid, self.lfs))
    }
}

fn remote_file(
    path: String,
    size: Option<u64>,
    blob: Option<String>,
    lfs: Option<Lfs>,
) -> RemoteFile {
    let is_hex = |text: &String, length| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let (lfs_hash, lfs_size) = lfs.map_or((None, None), |lfs| (Some(lfs.sha256), lfs.size));
    let hash = match lfs_hash {
        // The git object of a large file is its pointer, so its id says nothing about the contents.
        Some(sha256) => sha256
            .filter(|hex| is_hex(hex, 64))
            .map(|hex| RemoteHash::Sha256(hex.to_ascii_lowercase())),
        None => blob
            .filter(|hex| is_hex(hex, 40))
            .map(|hex| RemoteHash::GitBlob(hex.to_ascii_lowercase())),
    };
    RemoteFile {
        path,
        size: lfs_size.or(size),
        hash,
    }
}
