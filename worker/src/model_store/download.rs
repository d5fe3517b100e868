//! One file from the hub to the disk: appended to a `.part` file that a later try goes on with, checked against the
//! hub's hash when it is whole. A part's name holds the hash, so bytes of two versions never mix.

use std::path::{Path, PathBuf};

use reqwest::{StatusCode, Url};
use sha1::{Digest, Sha1};
use tokio::io::AsyncWriteExt;

use super::error::{ModelStoreError, Result};
use super::hub::{Failed, Hub, RemoteFile, RemoteHash};
use super::manifest::ModelFile;
use super::{Transfer, blocking, staging};

/// The pull a file belongs to.
#[derive(Debug)]
pub struct Job<'a> {
    /// Client.
    pub hub: &'a Hub,
    /// Repository, for error texts.
    pub repository: &'a str,
    /// Folder of the parts.
    pub folder: &'a Path,
    /// Progress and cancelling.
    pub transfer: &'a Transfer,
    /// Bytes of the files before this one.
    pub done_before: u64,
    /// Bytes of all files.
    pub total: u64,
}

/// Where a file's bytes are gathered.
#[must_use]
pub fn part_path(folder: &Path, file: &RemoteFile) -> PathBuf {
    let hash = file.hash.as_ref().map_or("unknown", RemoteHash::hex);
    let short = hash.get(..16).unwrap_or(hash);
    folder.join(format!("{}.{short}.part", file.path.replace('/', "__")))
}

/// Fetches a file into its part and checks it. The part stays where it is.
///
/// # Errors
/// [`ModelStoreError::Cancelled`], [`ModelStoreError::Checksum`], and those of the hub and the file system. Except
/// after a wrong checksum, what has arrived stays for the next pull.
pub async fn fetch(job: &Job<'_>, file: &RemoteFile, url: &Url) -> Result<ModelFile> {
    let part = part_path(job.folder, file);
    if file.hash.is_none() || file.size.is_none() {
        // Nothing would tell whether the rest fits what is here.
        remove_file(&part)?;
    }
    let mut tries = 0;
    let mut resumed = length(&part) > 0;
    loop {
        let before = length(&part);
        if file.size.is_none_or(|size| before != size) {
            match gather(job, file, url, &part).await {
                Ok(()) => {}
                Err(failed) => {
                    if length(&part) > before {
                        tries = 0;
                    }
                    let pause = job.hub.pause(failed, &mut tries, job.hub.attempts);
                    match job.transfer.cancel.run_until_cancelled(pause).await {
                        Some(result) => result?,
                        None => return Err(ModelStoreError::Cancelled),
                    }
                    continue;
                }
            }
        }
        job.transfer
            .report(&file.path, job.done_before + length(&part), job.total);
        match check(file, &part, job.transfer).await? {
            Ok(done) => return Ok(done),
            Err(message) => {
                remove_file(&part)?;
                // The bytes of an earlier run may be at fault: once more from the start.
                if !std::mem::take(&mut resumed) {
                    return Err(ModelStoreError::Checksum {
                        file: file.path.clone(),
                        message,
                    });
                }
            }
        }
    }
}

/// Appends what the hub sends to the part, until the file is whole.
async fn gather(job: &Job<'_>, file: &RemoteFile, url: &Url, part: &Path) -> Result<(), Failed> {
    let cancel = &job.transfer.cancel;
    let failed = |doing| {
        let wrap = ModelStoreError::io(doing, part);
        |error| Failed::ForGood(wrap(error))
    };
    let cancelled = || Failed::ForGood(ModelStoreError::Cancelled);
    let mut have = length(part);
    if file.size.is_some_and(|size| have > size) {
        have = 0;
    }
    let what = format!("file {} in {}", file.path, job.repository);
    let request = job.hub.get(url.clone(), have, job.repository, &what);
    let mut response = cancel
        .run_until_cancelled(request)
        .await
        .ok_or_else(cancelled)??;
    // Only a 206 goes on where the part ends; any other success starts at the first byte.
    if response.status() != StatusCode::PARTIAL_CONTENT {
        have = 0;
    }
    let mut target = tokio::fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .open(part)
        .await
        .map_err(failed("opening"))?;
    target.set_len(have).await.map_err(failed("writing"))?;
    tokio::io::AsyncSeekExt::seek(&mut target, std::io::SeekFrom::Start(have))
        .await
        .map_err(failed("writing"))?;
    let outcome = loop {
        match cancel.run_until_cancelled(response.chunk()).await {
            None => break Err(cancelled()),
            Some(Err(error)) => break Err(job.hub.unreachable(url, &error)),
            Some(Ok(None)) => break Ok(()),
            Some(Ok(Some(bytes))) => {
                if let Err(error) = target.write_all(&bytes).await {
                    break Err(failed("writing")(error));
                }
                have += bytes.len() as u64;
                job.transfer
                    .report(&file.path, job.done_before + have, job.total);
            }
        }
    };
    // Also after an error: the part must hold what was counted before anyone else may go on with it.
    let synced = async {
        target.flush().await?;
        target.sync_all().await
    };
    synced.await.map_err(failed("writing"))?;
    outcome?;
    match file.size {
        Some(size) if have < size => Err(Failed::ForNow(
            ModelStoreError::Unreachable {
                host: job.hub.host(),
                message: format!("the connection ended after {have} of {size} bytes"),
            },
            None,
        )),
        _ => Ok(()),
    }
}

/// Compares a whole file with what the hub says of it: the file's entry for the manifest, or what is wrong.
async fn check(
    file: &RemoteFile,
    part: &Path,
    transfer: &Transfer,
) -> Result<Result<ModelFile, String>> {
    let (file, part, cancel) = (file.clone(), part.to_owned(), transfer.cancel.clone());
    blocking(move || {
        let (size, sha256) = staging::hash_file(&part, &cancel)?;
        if let Some(expected) = file.size
            && size != expected
        {
            return Ok(Err(format!("{size} bytes instead of {expected}")));
        }
        let (found, expected) = match &file.hash {
            None => (String::new(), ""),
            Some(RemoteHash::Sha256(expected)) => (sha256.clone(), expected.as_str()),
            Some(RemoteHash::GitBlob(expected)) => (git_blob_id(&part)?, expected.as_str()),
        };
        if found != expected {
            return Ok(Err(format!("checksum {found} instead of {expected}")));
        }
        Ok(Ok(ModelFile {
            path: file.path,
            size,
            sha256,
        }))
    })
    .await
}

/// Git's id of a file's contents. Only small files have no better hash, so the whole file fits in memory.
fn git_blob_id(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(ModelStoreError::io("reading", path))?;
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", bytes.len()));
    hasher.update(&bytes);
    Ok(hex::encode(hasher.finalize()))
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(ModelStoreError::io("removing", path)),
    }
}
