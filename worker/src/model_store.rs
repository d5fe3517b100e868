//! The models on this machine: a folder with one sub-folder per model, each complete and described by its
//! `dalston.json`. Models get here by [`ModelStore::unpack_bundled`], [`ModelStore::pull`] and [`ModelStore::import`],
//! and leave by [`ModelStore::remove`]. Any number of processes may share the folder: each model is written under a lock,
//! in a staging folder that is renamed into place when it is whole.
//!
//! ```text
//! models/
//!   onnx-community--whisper-base_timestamped/   one model: its files and dalston.json
//!   whisper-nano/
//!   .locks/  .staging/  .downloads/  .aside/    work in progress; safe to delete when nothing runs
//! ```

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::Utc;
use dalston_schema::catalogue::{self, Entry};
use tokio_util::sync::CancellationToken;

mod bundled;
mod download;
mod error;
mod hub;
mod layout;
mod lock;
mod manifest;
mod model_id;
mod pull;
mod shared;
mod staging;

pub use bundled::{BUNDLED, BundledModel};
pub use error::{ModelStoreError, Result};
pub use hub::{DEFAULT_ENDPOINT, HubSettings};
pub use manifest::{InstalledModel, MANIFEST, Manifest, ModelFile, Source};
pub use model_id::ModelId;

use layout::Recognised;
use lock::ModelLock;
use staging::Staging;

/// A step of a copy or download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferProgress {
    /// File in hand, as named in the model's folder.
    pub file: String,
    /// Bytes of the whole model that are here.
    pub done_bytes: u64,
    /// Bytes of the whole model.
    pub total_bytes: u64,
}

/// The caller's hand on a copy or download.
#[derive(Clone, Default)]
pub struct Transfer {
    /// Hears of progress; `done_bytes` only grows, unless a damaged file is fetched again. Must not block.
    pub progress: Option<Arc<dyn Fn(TransferProgress) + Send + Sync>>,
    /// Stops the work with [`ModelStoreError::Cancelled`].
    pub cancel: CancellationToken,
}

impl Transfer {
    fn report(&self, file: &str, done_bytes: u64, total_bytes: u64) {
        if let Some(progress) = &self.progress {
            progress(TransferProgress {
                file: file.to_owned(),
                done_bytes,
                total_bytes,
            });
        }
    }
}

impl std::fmt::Debug for Transfer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Transfer")
            .field("cancel", &self.cancel)
            .finish_non_exhaustive()
    }
}

/// The folder of models. Cheap to clone; holds nothing open.
#[derive(Clone, Debug)]
pub struct ModelStore {
    root: Arc<PathBuf>,
    /// Folders whose fault has been logged: workers list every few seconds.
    told: Arc<Mutex<BTreeSet<ModelId>>>,
}

impl ModelStore {
    /// Opens a folder of models (`DALSTON_MODEL_DIR`), made if it is not there.
    ///
    /// # Errors
    /// [`ModelStoreError::Io`] when the folder cannot be made.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        std::fs::create_dir_all(&root).map_err(ModelStoreError::io("creating", &root))?;
        Ok(Self {
            root: Arc::new(root),
            told: Arc::default(),
        })
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Every model here, in order of id. A folder that cannot be read is left out and logged once.
    ///
    /// # Errors
    /// [`ModelStoreError::Io`] when the store's folder cannot be read.
    pub async fn list(&self) -> Result<Vec<InstalledModel>> {
        let store = self.clone();
        blocking(move || {
            let entries = std::fs::read_dir(store.root())
                .map_err(ModelStoreError::io("reading", store.root()))?;
            let mut models = Vec::new();
            for entry in entries {
                let entry = entry.map_err(ModelStoreError::io("reading", store.root()))?;
                let Some(id) = entry
                    .file_name()
                    .to_str()
                    .and_then(ModelId::from_folder_name)
                else {
                    continue;
                };
                match InstalledModel::read(&entry.path(), &id) {
                    Ok(model) => models.push(model),
                    Err(error) => {
                        let mut told = store.told.lock().unwrap_or_else(PoisonError::into_inner);
                        if told.insert(id.clone()) {
                            tracing::warn!(model = %id, %error, "{id} is left out");
                        }
                    }
                }
            }
            models.sort_by(|a, b| a.id().cmp(b.id()));
            Ok(models)
        })
        .await
    }

    /// One model by its id; other names are not followed.
    ///
    /// # Errors
    /// [`ModelStoreError::InvalidId`], [`ModelStoreError::NotInstalled`], [`ModelStoreError::Manifest`].
    pub async fn get(&self, id: &str) -> Result<InstalledModel> {
        let id = ModelId::parse(id)?;
        let store = self.clone();
        blocking(move || {
            store
                .installed(&id)?
                .ok_or_else(|| ModelStoreError::NotInstalled(id.to_string()))
        })
        .await
    }

    /// Unpacks the models that come with the program, where they are missing or differ, and returns them.
    ///
    /// # Errors
    /// [`ModelStoreError::Io`], [`ModelStoreError::DiskFull`].
    pub async fn unpack_bundled(&self) -> Result<Vec<InstalledModel>> {
        let mut models = Vec::new();
        for bundled in BUNDLED {
            let id = ModelId::parse(bundled.id)?;
            let (store, looked_for) = (self.clone(), id.clone());
            // No lock is needed to see that all is well, so a read-only folder does too.
            if let Some(model) = blocking(move || Ok(store.unpacked(&looked_for, bundled))).await? {
                models.push(model);
                continue;
            }
            let lock = self.lock(&id, &CancellationToken::new()).await?;
            let store = self.clone();
            models.push(
                blocking(move || {
                    let _lock = lock;
                    match store.unpacked(&id, bundled) {
                        Some(model) => Ok(model),
                        None => store.unpack(&id, bundled),
                    }
                })
                .await?,
            );
        }
        Ok(models)
    }

    /// Copies a folder in a published layout into the store. Without an `id` the folder's own name is used
    /// (`org--name` becomes `org/name`).
    ///
    /// # Errors
    /// [`ModelStoreError::AlreadyInstalled`], [`ModelStoreError::NotServed`], [`ModelStoreError::Unusable`],
    /// [`ModelStoreError::Unrecognised`], [`ModelStoreError::LinkOutside`], [`ModelStoreError::Cancelled`] and those of
    /// the file system. After any of them the store is as before.
    pub async fn import(
        &self,
        folder: &Path,
        id: Option<&str>,
        transfer: &Transfer,
    ) -> Result<InstalledModel> {
        let folder = folder
            .canonicalize()
            .map_err(ModelStoreError::io("opening", folder))?;
        let id = match id {
            Some(id) => ModelId::parse(id)?,
            None => {
                let name = folder
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned())
                    .unwrap_or_default();
                match ModelId::from_folder_name(&name) {
                    Some(id) => id,
                    None => ModelId::parse(&name)?,
                }
            }
        };
        let lock = self.lock(&id, &transfer.cancel).await?;
        let (store, transfer) = (self.clone(), transfer.clone());
        blocking(move || {
            let _lock = lock;
            store.copy_in(&folder, &id, &transfer)
        })
        .await
    }

    /// Fetches a model: a catalogue entry by its id or any other name of it, or a hub repository `organisation/name`
    /// that holds an export in one of the catalogue's layouts. A model that is here already is returned as it is. An
    /// interrupted pull goes on where it stopped.
    ///
    /// # Errors
    /// Those of the hub ([`ModelStoreError::Unreachable`], [`ModelStoreError::Refused`], [`ModelStoreError::NotFound`],
    /// [`ModelStoreError::Checksum`] …), [`ModelStoreError::Offline`], [`ModelStoreError::UnknownModel`],
    /// [`ModelStoreError::NotPullable`], [`ModelStoreError::Cancelled`], and those of [`ModelStore::import`].
    pub async fn pull(
        &self,
        name: &str,
        hub: &HubSettings,
        transfer: &Transfer,
    ) -> Result<InstalledModel> {
        pull::pull(self, name, hub, transfer).await
    }

    /// Removes a model and what an unfinished pull of it left. Processes that have it loaded keep it until they
    /// unload it.
    ///
    /// # Errors
    /// [`ModelStoreError::InvalidId`], [`ModelStoreError::NotInstalled`], [`ModelStoreError::Bundled`],
    /// [`ModelStoreError::Io`].
    pub async fn remove(&self, id: &str) -> Result<()> {
        let id = ModelId::parse(id)?;
        if id.is_bundled() {
            return Err(ModelStoreError::Bundled(id.to_string()));
        }
        let lock = self.lock(&id, &CancellationToken::new()).await?;
        let store = self.clone();
        blocking(move || {
            let _lock = lock;
            let (folder, aside) = (store.folder(&id), store.aside(&id));
            let downloads = store.downloads(&id);
            if !folder.exists() && !downloads.exists() {
                return Err(ModelStoreError::NotInstalled(id.to_string()));
            }
            staging::remove_folder(&downloads)?;
            staging::remove_folder(&aside)?;
            if folder.exists() {
                if let Some(parent) = aside.parent() {
                    std::fs::create_dir_all(parent)
                        .map_err(ModelStoreError::io("creating", parent))?;
                }
                std::fs::rename(&folder, &aside).map_err(ModelStoreError::io("moving", &folder))?;
                staging::remove_folder(&aside)?;
            }
            Ok(())
        })
        .await
    }

    fn folder(&self, id: &ModelId) -> PathBuf {
        self.root.join(id.folder_name())
    }

    fn aside(&self, id: &ModelId) -> PathBuf {
        self.root.join(".aside").join(id.folder_name())
    }

    fn downloads(&self, id: &ModelId) -> PathBuf {
        self.root.join(".downloads").join(id.folder_name())
    }

    async fn lock(&self, id: &ModelId, cancel: &CancellationToken) -> Result<ModelLock> {
        ModelLock::acquire(&self.root.join(".locks"), id, cancel).await
    }

    fn staging(&self, id: &ModelId) -> Result<Staging> {
        Staging::create(self.root.join(".staging").join(id.folder_name()))
    }

    /// The model in its folder, if there is one.
    fn installed(&self, id: &ModelId) -> Result<Option<InstalledModel>> {
        let folder = self.folder(id);
        if !folder.exists() {
            return Ok(None);
        }
        InstalledModel::read(&folder, id).map(Some)
    }

    fn install(
        &self,
        staging: Staging,
        manifest: Manifest,
        id: &ModelId,
    ) -> Result<InstalledModel> {
        let aside = self.aside(id);
        if let Some(parent) = aside.parent() {
            std::fs::create_dir_all(parent).map_err(ModelStoreError::io("creating", parent))?;
        }
        staging.install(manifest, &self.folder(id), &aside)
    }

    /// The bundled model as it stands in the store, if it is whole and the same.
    fn unpacked(&self, id: &ModelId, bundled: &BundledModel) -> Option<InstalledModel> {
        let model = self.installed(id).ok()??;
        let same = |(path, bytes): &(&str, &[u8])| {
            std::fs::read(model.folder.join(path)).is_ok_and(|found| found == *bytes)
        };
        bundled.files.iter().all(same).then_some(model)
    }

    fn unpack(&self, id: &ModelId, bundled: &BundledModel) -> Result<InstalledModel> {
        let staging = self.staging(id)?;
        let mut files = Vec::new();
        for (path, bytes) in bundled.files {
            files.push(staging.write(path, bytes)?);
        }
        let entry = catalogue::entry(bundled.id)
            .ok_or_else(|| ModelStoreError::UnknownModel(id.to_string()))?;
        let manifest = Manifest::of_entry(entry, Source::Bundled, files);
        let model = self.install(staging, manifest, id)?;
        tracing::info!(model = %id, "{id} is unpacked");
        Ok(model)
    }

    fn copy_in(&self, folder: &Path, id: &ModelId, transfer: &Transfer) -> Result<InstalledModel> {
        if self.folder(id).exists() {
            return Err(ModelStoreError::AlreadyInstalled(id.to_string()));
        }
        let recognised = layout::recognise(folder)?;
        let mut total = 0;
        for path in &recognised.files {
            let from = folder.join(path);
            total += std::fs::metadata(&from)
                .map_err(ModelStoreError::io("reading", &from))?
                .len();
        }
        let staging = self.staging(id)?;
        let mut done = 0;
        let mut files = Vec::new();
        for path in &recognised.files {
            files.push(
                staging.copy(&folder.join(path), path, &transfer.cancel, |bytes| {
                    done += bytes;
                    transfer.report(path, done, total);
                })?,
            );
        }
        let source = Source::Folder {
            path: folder.to_owned(),
        };
        let manifest = describe(id, recognised, source, files);
        let model = self.install(staging, manifest, id)?;
        tracing::info!(model = %id, "{id} is imported");
        Ok(model)
    }
}

/// The manifest of a model: the catalogue's word on it where it has one, else what its files say.
fn describe(
    id: &ModelId,
    recognised: Recognised,
    source: Source,
    files: Vec<ModelFile>,
) -> Manifest {
    let entry: Option<&Entry> =
        catalogue::entry(id.as_str()).filter(|entry| entry.engine == recognised.engine);
    Manifest {
        id: id.to_string(),
        name: entry.map_or_else(|| id.to_string(), |entry| entry.name.clone()),
        engine: recognised.engine.to_owned(),
        stage: recognised.stage,
        layout: recognised.layout,
        source,
        languages: entry.map_or(recognised.languages, |entry| entry.languages.clone()),
        words: recognised.words,
        translates: entry.map_or(recognised.translates, |entry| entry.translates),
        imported_at: Utc::now(),
        files,
    }
}

/// Runs blocking work off the runtime. A panic in it goes on in the caller.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(stopped) => match stopped.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(ModelStoreError::Cancelled),
        },
    }
}

#[cfg(test)]
mod tests;
