//! One writer per model, across processes: an exclusive lock on `.locks/{model}.lock`. The system drops it when its
//! holder dies, so a crash never leaves a model locked.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::error::{ModelStoreError, Result};
use super::model_id::ModelId;

/// How often a waiting process looks again.
const POLL: Duration = Duration::from_millis(50);

/// The right to write one model's folder, until dropped.
#[derive(Debug)]
pub struct ModelLock {
    _file: File,
}

impl ModelLock {
    /// Waits for the lock.
    ///
    /// # Errors
    /// [`ModelStoreError::Cancelled`] while waiting, [`ModelStoreError::Io`] when the lock file cannot be made.
    pub async fn acquire(folder: &Path, id: &ModelId, cancel: &CancellationToken) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(ModelStoreError::io("creating", folder))?;
        let path = folder.join(format!("{}.lock", id.folder_name()));
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(ModelStoreError::io("opening", &path))?;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) => {
                    if !told {
                        tracing::info!(model = %id, "another process is writing {id}; waiting for it");
                        told = true;
                    }
                    if cancel
                        .run_until_cancelled(tokio::time::sleep(POLL))
                        .await
                        .is_none()
                    {
                        return Err(ModelStoreError::Cancelled);
                    }
                }
                Err(TryLockError::Error(error)) => {
                    return Err(ModelStoreError::io("locking", &path)(error));
                }
            }
        }
    }
}
