//! The worker's scratch folder: files of running tasks, removed with the task, and leftovers of workers that died,
//! removed by the next start.
//!
//! Each worker process owns one folder and holds a lock on a file in it. A folder whose lock can be taken has no owner.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use dalston_schema::storage::StorageError;
use dalston_schema::{ArtifactKey, Storage, TaskId};
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;
use uuid::Uuid;

use crate::failure::{StageError, StageResult, scratch_failed};

const LOCK_FILE: &str = "owner.lock";
const FOLDER_PREFIX: &str = "worker-";
/// Bytes read at a time from a file on its way into the object store.
const READ_BYTES: usize = 256 << 10;
/// Largest prepared file: 10 h at 32,000 bytes a second, with room for the header.
const LARGEST_PREPARED: u64 = 10 * 3600 * 32_000 + (1 << 20);

/// This process's folder under the scratch folder.
#[derive(Debug)]
pub struct Scratch {
    folder: PathBuf,
    // Held, never read: the lock says that the folder has an owner.
    _lock: File,
}

impl Scratch {
    /// Makes this process's folder and removes those of workers that are gone.
    ///
    /// # Errors
    /// When the folder cannot be made or locked.
    pub fn open(root: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(root)?;
        remove_abandoned(root);
        let id = Uuid::now_v7();
        // Locked before it gets the name that another start looks for, so that nobody takes it for abandoned.
        let unnamed = root.join(format!(".new-{id}"));
        std::fs::create_dir(&unnamed)?;
        let lock = File::create(unnamed.join(LOCK_FILE))?;
        lock.try_lock().map_err(io::Error::from)?;
        let folder = root.join(format!("{FOLDER_PREFIX}{id}"));
        std::fs::rename(&unnamed, &folder)?;
        Ok(Self {
            folder,
            _lock: lock,
        })
    }

    /// Makes the folder of one task.
    ///
    /// # Errors
    /// A failure fit for the task, when the disk refuses.
    pub fn task(&self, task: TaskId) -> StageResult<TaskScratch> {
        // A task that was lost and claimed again by the same process must not meet its former self.
        let path = self.folder.join(format!("{task}-{}", Uuid::now_v7()));
        std::fs::create_dir(&path).map_err(|error| scratch_failed(&error))?;
        Ok(TaskScratch { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            tracing::debug!(%error, "the scratch folder could not be removed; the next start does it");
        }
    }
}

/// Removes folders whose owner does not hold its lock any more. What cannot be removed stays for the next start.
fn remove_abandoned(root: &Path) {
    let Ok(entries) = std::fs::read_dir(root) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let ours = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(FOLDER_PREFIX));
        // A folder without a lock file may be one that its owner is just making.
        let abandoned =
            ours && File::open(path.join(LOCK_FILE)).is_ok_and(|lock| lock.try_lock().is_ok());
        if abandoned && let Err(error) = std::fs::remove_dir_all(&path) {
            tracing::warn!(path = %path.display(), %error, "a dead worker's scratch folder could not be removed");
        }
    }
}

/// The folder of one task; removed when dropped.
#[derive(Debug)]
pub struct TaskScratch {
    path: PathBuf,
}

impl TaskScratch {
    /// The folder itself.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.path
    }

    /// A path in the folder.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A local path of an object: where it lies when the store is a folder, else a copy streamed to scratch.
    ///
    /// # Errors
    /// A failure fit for the task.
    pub async fn fetch(
        &self,
        storage: &Storage,
        key: &ArtifactKey,
        name: &str,
    ) -> StageResult<PathBuf> {
        if let Some(path) = storage.local_path(key) {
            if !path.is_file() {
                return Err(StorageError::NotFound(key.to_string()).into());
            }
            return Ok(path);
        }
        let path = self.file(name);
        let mut stream = storage.read(key).await?;
        let mut file = tokio::fs::File::create(&path)
            .await
            .map_err(|error| scratch_failed(&error))?;
        while let Some(bytes) = stream.next().await {
            file.write_all(&bytes?)
                .await
                .map_err(|error| scratch_failed(&error))?;
        }
        file.flush().await.map_err(|error| scratch_failed(&error))?;
        Ok(path)
    }

    /// Streams a file of this folder into the object store.
    ///
    /// # Errors
    /// A failure fit for the task; nothing is left in the store.
    pub async fn store(
        &self,
        storage: &Storage,
        path: &Path,
        key: &ArtifactKey,
    ) -> StageResult<u64> {
        let file = tokio::fs::File::open(path)
            .await
            .map_err(|error| scratch_failed(&error))?;
        storage
            .put_stream(
                key,
                ReaderStream::with_capacity(file, READ_BYTES),
                LARGEST_PREPARED,
            )
            .await
            .map_err(StageError::from)
    }
}

impl Drop for TaskScratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "a task's scratch folder could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn a_dead_workers_folder_goes_and_a_living_ones_stays() {
        let root = tempfile::tempdir().unwrap();
        let alive = Scratch::open(root.path()).unwrap();
        let dead = root.path().join("worker-dead");
        std::fs::create_dir(&dead).unwrap();
        std::fs::write(dead.join(LOCK_FILE), "").unwrap();
        std::fs::write(dead.join("leftover.wav"), "audio").unwrap();
        let foreign = root.path().join("somebody-elses");
        std::fs::create_dir(&foreign).unwrap();
        let second = Scratch::open(root.path()).unwrap();
        assert!(alive.folder.is_dir() && second.folder.is_dir());
        assert!(!dead.exists());
        assert!(foreign.exists());
    }

    #[test]
    fn a_tasks_files_go_with_the_task() {
        let root = tempfile::tempdir().unwrap();
        let scratch = Scratch::open(root.path()).unwrap();
        let task = scratch.task(TaskId::generate()).unwrap();
        let file = task.file("prepared.wav");
        std::fs::write(&file, "audio").unwrap();
        drop(task);
        assert!(!file.exists());
    }

    #[tokio::test]
    async fn a_file_goes_into_the_store_and_comes_back_the_same() {
        let root = tempfile::tempdir().unwrap();
        let scratch = Scratch::open(root.path()).unwrap();
        let task = scratch.task(TaskId::generate()).unwrap();
        let storage = Storage::open(&dalston_schema::storage::StorageConfig::Memory).unwrap();
        let key = ArtifactKey::from_stored("jobs/x/prepared.wav");
        let bytes: Vec<u8> = (0..700_000_u32).flat_map(u32::to_le_bytes).collect();
        let path = task.file("out.wav");
        std::fs::write(&path, &bytes).unwrap();
        task.store(&storage, &path, &key).await.unwrap();
        let copy = task.fetch(&storage, &key, "in.wav").await.unwrap();
        assert_eq!(std::fs::read(copy).unwrap(), bytes);
    }

    #[tokio::test]
    async fn a_missing_object_is_a_permanent_failure() {
        let root = tempfile::tempdir().unwrap();
        let scratch = Scratch::open(root.path()).unwrap();
        let task = scratch.task(TaskId::generate()).unwrap();
        let store = dalston_schema::storage::StorageConfig::Folder(root.path().join("objects"));
        let storage = Storage::open(&store).unwrap();
        let key = ArtifactKey::from_stored("jobs/x/original.wav");
        let error = task.fetch(&storage, &key, "in.wav").await.unwrap_err();
        assert!(
            error.to_string().contains("no longer in the object store"),
            "{error}"
        );
    }
}
