//! Models in the object store, under `models/{folder}/`, so that new workers fetch them from there and not from a hub.
//! The registry says which are complete, by their manifests; what is fetched is checked against them.

use std::path::Path;

use dalston_schema::storage::StorageError;
use dalston_schema::{ArtifactKey, Storage};
use futures_util::StreamExt;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;

use super::error::{ModelStoreError, Result};
use super::manifest::{InstalledModel, Manifest, ModelFile};
use super::model_id::ModelId;
use super::{ModelStore, Transfer, blocking};

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

impl ModelStore {
    /// Fetches a model that the object store has. One that is here already is returned as it is.
    ///
    /// # Errors
    /// [`ModelStoreError::ObjectStore`], [`ModelStoreError::Checksum`], [`ModelStoreError::Cancelled`] and those of the
    /// file system. After any of them the store is as before.
    pub async fn fetch_shared(
        &self,
        storage: &Storage,
        manifest: Manifest,
        transfer: &Transfer,
    ) -> Result<InstalledModel> {
        let id = ModelId::parse(&manifest.id)?;
        let lock = self.lock(&id, &transfer.cancel).await?;
        if let Ok(model) = self.get(id.as_str()).await {
            return Ok(model);
        }
        let (store, staged) = (self.clone(), id.clone());
        let staging = blocking(move || store.staging(&staged)).await?;
        let total = manifest.files.iter().map(|file| file.size).sum();
        let mut done = 0;
        for file in &manifest.files {
            let path = staging.place(safe(&manifest, file)?)?;
            let key = ArtifactKey::model_file(&manifest.id, &file.path);
            let fetching = fetch(storage, &key, file, &path, |bytes| {
                done += bytes;
                transfer.report(&file.path, done, total);
            });
            transfer
                .cancel
                .run_until_cancelled(fetching)
                .await
                .ok_or(ModelStoreError::Cancelled)??;
        }
        let store = self.clone();
        blocking(move || {
            let _lock = lock;
            let model = store.install(staging, manifest, &id)?;
            tracing::info!(model = %id, "{id} is fetched from the object store");
            Ok(model)
        })
        .await
    }

    /// Copies a model's files to the object store. Whoever calls then tells the registry.
    ///
    /// # Errors
    /// [`ModelStoreError::ObjectStore`], [`ModelStoreError::Cancelled`], [`ModelStoreError::Io`].
    pub async fn share(
        &self,
        storage: &Storage,
        model: &InstalledModel,
        transfer: &Transfer,
    ) -> Result<()> {
        for file in &model.manifest.files {
            let path = model.folder.join(safe(&model.manifest, file)?);
            let source = tokio::fs::File::open(&path)
                .await
                .map_err(ModelStoreError::io("opening", &path))?;
            let key = ArtifactKey::model_file(model.id(), &file.path);
            let stream = ReaderStream::with_capacity(source, CHUNK);
            transfer
                .cancel
                .run_until_cancelled(storage.put_stream(&key, stream, u64::MAX))
                .await
                .ok_or(ModelStoreError::Cancelled)?
                .map_err(|error| object_store(&key, error))?;
        }
        tracing::info!(
            model = model.id(),
            "{} is copied to the object store",
            model.id()
        );
        Ok(())
    }
}

/// The path of a file, if it stays in the model's folder.
fn safe<'a>(manifest: &Manifest, file: &'a ModelFile) -> Result<&'a str> {
    let plain = !file.path.is_empty()
        && file
            .path
            .split('/')
            .all(|part| !part.is_empty() && !part.starts_with('.') && !part.contains('\\'));
    if plain {
        return Ok(&file.path);
    }
    Err(ModelStoreError::Unusable {
        folder: manifest.id.clone(),
        message: format!("its manifest names the file {:?}", file.path),
    })
}

/// Fetches one file and checks it.
async fn fetch(
    storage: &Storage,
    key: &ArtifactKey,
    file: &ModelFile,
    path: &Path,
    mut arrived: impl FnMut(u64),
) -> Result<()> {
    let failed = |error| object_store(key, error);
    let mut stream = storage.read(key).await.map_err(failed)?;
    let mut target = tokio::fs::File::create(path)
        .await
        .map_err(ModelStoreError::io("creating", path))?;
    let (mut hasher, mut size) = (Sha256::new(), 0);
    while let Some(bytes) = stream.next().await {
        let bytes = bytes.map_err(failed)?;
        hasher.update(&bytes);
        size += bytes.len() as u64;
        target
            .write_all(&bytes)
            .await
            .map_err(ModelStoreError::io("writing", path))?;
        arrived(bytes.len() as u64);
    }
    target
        .sync_all()
        .await
        .map_err(ModelStoreError::io("writing", path))?;
    let sha256 = hex::encode(hasher.finalize());
    if (size, &sha256) != (file.size, &file.sha256) {
        return Err(ModelStoreError::Checksum {
            file: key.to_string(),
            message: format!(
                "expected {} bytes, SHA-256 {}; found {size} bytes, {sha256}",
                file.size, file.sha256
            ),
        });
    }
    Ok(())
}

fn object_store(key: &ArtifactKey, source: StorageError) -> ModelStoreError {
    ModelStoreError::ObjectStore {
        key: key.to_string(),
        source,
    }
}
