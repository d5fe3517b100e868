//! Puts a model's files into the store so that it is there whole or not at all: everything is written to a staging
//! folder on the same disk, which is renamed into place at the end. Every function here blocks; the caller holds the
//! model's lock.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::error::{ModelStoreError, Result};
use super::manifest::{InstalledModel, MANIFEST, Manifest, ModelFile};

/// Bytes copied or hashed between two looks at the cancel token.
const CHUNK: usize = 1 << 20;

/// A folder under construction. Dropped without [`Staging::install`], it is removed.
#[derive(Debug)]
pub struct Staging {
    folder: PathBuf,
    installed: bool,
}

impl Staging {
    /// Makes an empty staging folder; one that a crash left behind is removed first.
    ///
    /// # Errors
    /// [`ModelStoreError::Io`], [`ModelStoreError::DiskFull`].
    pub fn create(folder: PathBuf) -> Result<Self> {
        remove_folder(&folder)?;
        std::fs::create_dir_all(&folder).map_err(ModelStoreError::io("creating", &folder))?;
        Ok(Self {
            folder,
            installed: false,
        })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where a file of the model goes; its parent folder is made.
    ///
    /// # Errors
    /// [`ModelStoreError::Io`], [`ModelStoreError::DiskFull`].
    pub fn place(&self, relative: &str) -> Result<PathBuf> {
        let path = self.folder.join(relative);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(ModelStoreError::io("creating", parent))?;
        }
        Ok(path)
    }

    /// Writes a file from memory.
    ///
    /// # Errors
    /// [`ModelStoreError::Io`], [`ModelStoreError::DiskFull`].
    pub fn write(&self, relative: &str, bytes: &[u8]) -> Result<ModelFile> {
        let path = self.place(relative)?;
        std::fs::write(&path, bytes).map_err(ModelStoreError::io("writing", &path))?;
        Ok(ModelFile {
            path: relative.to_owned(),
            size: bytes.len() as u64,
            sha256: hex::encode(Sha256::digest(bytes)),
        })
    }

    /// Copies a file; `copied` hears the bytes of each step.
    ///
    /// # Errors
    /// [`ModelStoreError::Cancelled`], [`ModelStoreError::Io`], [`ModelStoreError::DiskFull`].
    pub fn copy(
        &self,
        from: &Path,
        relative: &str,
        cancel: &CancellationToken,
        mut copied: impl FnMut(u64),
    ) -> Result<ModelFile> {
        let path = self.place(relative)?;
        let mut target = File::create(&path).map_err(ModelStoreError::io("creating", &path))?;
        let (size, sha256) = read_through(from, cancel, |bytes| {
            target
                .write_all(bytes)
                .map_err(ModelStoreError::io("writing", &path))?;
            copied(bytes.len() as u64);
            Ok(())
        })?;
        target
            .sync_all()
            .map_err(ModelStoreError::io("writing", &path))?;
        Ok(ModelFile {
            path: relative.to_owned(),
            size,
            sha256,
        })
    }

    /// Moves a file of the same disk in.
    ///
    /// # Errors
    /// [`ModelStoreError::Io`].
    pub fn adopt(&self, from: &Path, relative: &str) -> Result<()> {
        std::fs::rename(from, self.place(relative)?).map_err(ModelStoreError::io("moving", from))
    }

    /// Writes the manifest and moves the folder to `target`. A model that stands there is moved aside to `aside`
    /// first and removed after; whoever has its files open keeps them.
    ///
    /// # Errors
    /// [`ModelStoreError::Io`], [`ModelStoreError::DiskFull`].
    pub fn install(
        mut self,
        manifest: Manifest,
        target: &Path,
        aside: &Path,
    ) -> Result<InstalledModel> {
        let path = self.folder.join(MANIFEST);
        let written = serde_json::to_vec_pretty(&manifest)
            .map_err(std::io::Error::from)
            .and_then(|text| {
                let mut file = File::create(&path)?;
                file.write_all(&text)?;
                file.sync_all()
            });
        written.map_err(ModelStoreError::io("writing", &path))?;
        remove_folder(aside)?;
        if target.exists() {
            std::fs::rename(target, aside).map_err(ModelStoreError::io("moving", target))?;
        }
        std::fs::rename(&self.folder, target)
            .map_err(ModelStoreError::io("moving", &self.folder))?;
        self.installed = true;
        remove_folder(aside)?;
        Ok(InstalledModel {
            folder: target.to_owned(),
            manifest,
        })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.installed
            && let Err(error) = remove_folder(&self.folder)
        {
            tracing::warn!(%error, "a staging folder is left behind; the next import of the model removes it");
        }
    }
}

/// Size and SHA-256 of a file.
///
/// # Errors
/// [`ModelStoreError::Cancelled`], [`ModelStoreError::Io`].
pub fn hash_file(path: &Path, cancel: &CancellationToken) -> Result<(u64, String)> {
    read_through(path, cancel, |_| Ok(()))
}

/// Reads a file in steps, hashing what it passes on.
fn read_through(
    path: &Path,
    cancel: &CancellationToken,
    mut pass: impl FnMut(&[u8]) -> Result<()>,
) -> Result<(u64, String)> {
    let mut file = File::open(path).map_err(ModelStoreError::io("opening", path))?;
    let mut buffer = vec![0; CHUNK];
    let mut hasher = Sha256::new();
    let mut size = 0;
    loop {
        if cancel.is_cancelled() {
            return Err(ModelStoreError::Cancelled);
        }
        let read = file
            .read(&mut buffer)
            .map_err(ModelStoreError::io("reading", path))?;
        if read == 0 {
            return Ok((size, hex::encode(hasher.finalize())));
        }
        hasher.update(&buffer[..read]);
        pass(&buffer[..read])?;
        size += read as u64;
    }
}

/// Removes a folder and what is in it; one that is not there is fine.
///
/// # Errors
/// [`ModelStoreError::Io`].
pub fn remove_folder(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(ModelStoreError::io("removing", folder)),
    }
}
