//! The object store: a folder, an S3-compatible server, or memory in tests. Holds audio, and models that
//! workers share, and nothing else.

use std::ops::Range;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart};
use secrecy::{ExposeSecret, SecretString};

use crate::artifact::ArtifactKey;

/// Size of one part of a streamed upload, in bytes.
const PART_BYTES: usize = 8 << 20;
/// Parts of one upload in flight at a time; with [`PART_BYTES`] this bounds the memory an upload holds.
const PARTS_IN_FLIGHT: usize = 2;
/// Key of the object that says whose store it is.
pub const MARK: &str = "installation";

/// Where objects live.
#[derive(Clone, Debug)]
pub enum StorageConfig {
    /// A folder on this machine.
    Folder(PathBuf),
    /// An S3-compatible bucket.
    S3(S3Config),
    /// This process's memory; for tests.
    Memory,
}

/// How to reach an S3-compatible bucket.
#[derive(Clone, Debug)]
pub struct S3Config {
    /// Bucket name.
    pub bucket: String,
    /// Region, for example `eu-west-2`.
    pub region: String,
    /// Endpoint of an S3-compatible server (path style); `None` is Amazon's own.
    pub endpoint_url: Option<String>,
    /// Endpoint that clients of signed URLs reach, when it differs from `endpoint_url`.
    pub public_endpoint_url: Option<String>,
    /// Access key id; `None` takes it from the instance's role.
    pub access_key_id: Option<String>,
    /// Secret access key.
    pub secret_access_key: Option<SecretString>,
}

/// Why an object could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// No object has this key.
    #[error("no object {0}")]
    NotFound(String),
    /// The store has no space left.
    #[error("the object store is full")]
    Full,
    /// The source of an upload ended in an error.
    #[error("the upload broke off: {0}")]
    Source(#[source] std::io::Error),
    /// The upload is larger than allowed.
    #[error("larger than {limit} bytes")]
    TooLarge {
        /// Allowed size in bytes.
        limit: u64,
    },
    /// Anything else the store says.
    #[error("object store: {0}")]
    Store(#[source] object_store::Error),
    /// The configuration cannot work.
    #[error("object store configuration: {0}")]
    Config(String),
}

impl From<object_store::Error> for StorageError {
    fn from(error: object_store::Error) -> Self {
        if let object_store::Error::NotFound { path, .. } = error {
            return Self::NotFound(path);
        }
        if is_out_of_space(&error) {
            return Self::Full;
        }
        Self::Store(error)
    }
}

/// Walks the chain of causes for the operating system's "no space left" or "quota exceeded".
fn is_out_of_space(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(current) = cause {
        if let Some(io) = current.downcast_ref::<std::io::Error>()
            && matches!(
                io.kind(),
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
            )
        {
            return true;
        }
        cause = current.source();
    }
    false
}

#[derive(Clone)]
enum Backend {
    Folder {
        store: Arc<LocalFileSystem>,
        root: PathBuf,
    },
    S3 {
        store: Arc<AmazonS3>,
        signer: Arc<AmazonS3>,
    },
    Memory(Arc<InMemory>),
}

/// The object store.
#[derive(Clone)]
pub struct Storage {
    backend: Backend,
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self.backend {
            Backend::Folder { .. } => "Storage(folder)",
            Backend::S3 { .. } => "Storage(s3)",
            Backend::Memory(_) => "Storage(memory)",
        })
    }
}

impl Storage {
    /// Opens the store; a folder is created when missing.
    ///
    /// # Errors
    /// When the folder cannot be made or the S3 settings are contradictory. The bucket is not contacted.
    pub fn open(config: &StorageConfig) -> Result<Self, StorageError> {
        let backend = match config {
            StorageConfig::Folder(root) => {
                make_folder(root).map_err(|error| {
                    StorageError::Config(format!("cannot create {}: {error}", root.display()))
                })?;
                let root = root
                    .canonicalize()
                    .map_err(|error| StorageError::Config(error.to_string()))?;
                let store = LocalFileSystem::new_with_prefix(&root)?.with_automatic_cleanup(true);
                Backend::Folder {
                    store: Arc::new(store),
                    root,
                }
            }
            StorageConfig::S3(s3) => {
                let signer_endpoint = s3.public_endpoint_url.as_ref().or(s3.endpoint_url.as_ref());
                Backend::S3 {
                    store: Arc::new(s3_client(s3, s3.endpoint_url.as_ref())?),
                    signer: Arc::new(s3_client(s3, signer_endpoint)?),
                }
            }
            StorageConfig::Memory => Backend::Memory(Arc::new(InMemory::new())),
        };
        Ok(Self { backend })
    }

    fn store(&self) -> &dyn ObjectStore {
        match &self.backend {
            Backend::Folder { store, .. } => store.as_ref(),
            Backend::S3 { store, .. } => store.as_ref(),
            Backend::Memory(store) => store.as_ref(),
        }
    }

    /// Streams an object into the store and answers its size in bytes. Holds at most a few parts in memory; on error
    /// nothing is left behind.
    ///
    /// # Errors
    /// [`StorageError::TooLarge`] once more than `limit` bytes came, [`StorageError::Source`] when the stream fails,
    /// [`StorageError::Full`] when there is no space.
    pub async fn put_stream<S>(
        &self,
        key: &ArtifactKey,
        mut stream: S,
        limit: u64,
    ) -> Result<u64, StorageError>
    where
        S: futures_util::Stream<Item = std::io::Result<Bytes>> + Unpin,
    {
        let upload = self
            .store()
            .put_multipart(&Path::from(key.as_str()))
            .await?;
        let mut writer = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        let mut size = 0u64;
        loop {
            let failure = match stream.next().await {
                None => break,
                Some(Err(error)) => StorageError::Source(error),
                Some(Ok(bytes)) => {
                    size += bytes.len() as u64;
                    if size > limit {
                        StorageError::TooLarge { limit }
                    } else if let Err(error) = writer.wait_for_capacity(PARTS_IN_FLIGHT).await {
                        error.into()
                    } else {
                        writer.put(bytes);
                        continue;
                    }
                }
            };
            // The failure that stopped the upload matters more than one while cleaning up; the sweeper takes leftovers.
            let _ = writer.abort().await;
            return Err(failure);
        }
        writer.finish().await?;
        Ok(size)
    }

    /// Stores a small object in one go.
    ///
    /// # Errors
    /// As the store says.
    pub async fn put(&self, key: &ArtifactKey, bytes: Bytes) -> Result<(), StorageError> {
        self.store()
            .put_opts(&Path::from(key.as_str()), bytes.into(), Default::default())
            .await?;
        Ok(())
    }

    /// Size of an object in bytes.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] when there is none.
    pub async fn size(&self, key: &ArtifactKey) -> Result<u64, StorageError> {
        Ok(self.store().head(&Path::from(key.as_str())).await?.size)
    }

    /// Reads a range of bytes.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] when there is no such object.
    pub async fn read_range(
        &self,
        key: &ArtifactKey,
        range: Range<u64>,
    ) -> Result<Bytes, StorageError> {
        Ok(self
            .store()
            .get_range(&Path::from(key.as_str()), range)
            .await?)
    }

    /// Streams an object out.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] when there is none.
    pub async fn read(
        &self,
        key: &ArtifactKey,
    ) -> Result<BoxStream<'static, Result<Bytes, StorageError>>, StorageError> {
        let result = self.store().get(&Path::from(key.as_str())).await?;
        Ok(result.into_stream().map_err(StorageError::from).boxed())
    }

    /// Path of the object on this machine, when the store is a folder.
    #[must_use]
    pub fn local_path(&self, key: &ArtifactKey) -> Option<PathBuf> {
        match &self.backend {
            Backend::Folder { root, .. } => Some(root.join(key.as_str())),
            Backend::S3 { .. } | Backend::Memory(_) => None,
        }
    }

    /// A URL that reads the object without our API for a while, when the store can make one (S3 only).
    ///
    /// # Errors
    /// When signing fails.
    pub async fn signed_url(
        &self,
        key: &ArtifactKey,
        valid: Duration,
    ) -> Result<Option<String>, StorageError> {
        match &self.backend {
            Backend::S3 { signer, .. } => {
                // `GET` as the signer's own HTTP crate spells it.
                let url = signer
                    .signed_url(
                        "GET"
                            .parse()
                            .map_err(|_| StorageError::Config("GET".into()))?,
                        &Path::from(key.as_str()),
                        valid,
                    )
                    .await?;
                Ok(Some(url.to_string()))
            }
            Backend::Folder { .. } | Backend::Memory(_) => Ok(None),
        }
    }

    /// Deletes everything under a prefix made by [`ArtifactKey`] and answers how many objects that were.
    ///
    /// # Errors
    /// As the store says; what was deleted before stays deleted, so the call can be repeated.
    pub async fn delete_prefix(&self, prefix: &str) -> Result<u64, StorageError> {
        let prefix = Path::from(prefix);
        let mut listed = self.store().list(Some(&prefix));
        let mut deleted = 0;
        while let Some(object) = listed.try_next().await? {
            match self.store().delete(&object.location).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => deleted += 1,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(deleted)
    }

    /// The installation whose store this is, by the mark that [`Storage::mark`] left.
    ///
    /// # Errors
    /// As the store says.
    pub async fn owner(&self) -> Result<Option<String>, StorageError> {
        match self
            .store()
            .get_opts(&Path::from(MARK), Default::default())
            .await
        {
            Ok(mark) => Ok(Some(
                String::from_utf8_lossy(&mark.bytes().await?)
                    .trim()
                    .to_owned(),
            )),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Marks the store as that of an installation: the object [`MARK`] holds its id.
    ///
    /// # Errors
    /// As the store says.
    pub async fn mark(&self, installation: uuid::Uuid) -> Result<(), StorageError> {
        let key = ArtifactKey::from_stored(MARK);
        self.put(&key, installation.to_string().into()).await
    }

    /// Lists the jobs that have objects (`jobs/{id}`); for the sweeper of orphans.
    ///
    /// # Errors
    /// As the store says.
    pub async fn list_job_ids(&self) -> Result<Vec<crate::JobId>, StorageError> {
        let listed = self
            .store()
            .list_with_delimiter(Some(&Path::from("jobs")))
            .await?;
        Ok(listed
            .common_prefixes
            .iter()
            .filter_map(|prefix| prefix.filename()?.parse().ok())
            .collect())
    }

    /// Writes a probe object and deletes it; for health checks.
    ///
    /// # Errors
    /// Whatever went wrong on the way.
    pub async fn check(&self) -> Result<(), StorageError> {
        // Always the same one: a check that is cut off leaves nothing that the next does not take.
        let key = ArtifactKey::from_stored("health/probe");
        self.put(&key, Bytes::from_static(b"ok")).await?;
        match self.store().delete(&Path::from(key.as_str())).await {
            // Another process's check was as fast.
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            done => Ok(done?),
        }
    }
}

/// Makes the folder when it is missing: what people say is for nobody else on the machine. One that is there keeps the
/// rights its owner gave it.
fn make_folder(root: &std::path::Path) -> std::io::Result<()> {
    if root.is_dir() {
        return Ok(());
    }
    if let Some(parent) = root.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(root) {
        // Another process was faster.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn s3_client(config: &S3Config, endpoint: Option<&String>) -> Result<AmazonS3, StorageError> {
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&config.bucket)
        .with_region(&config.region);
    if let Some(endpoint) = endpoint {
        builder = builder
            .with_endpoint(endpoint)
            .with_allow_http(endpoint.starts_with("http://"))
            .with_virtual_hosted_style_request(false);
    }
    if let (Some(id), Some(secret)) = (&config.access_key_id, &config.secret_access_key) {
        builder = builder
            .with_access_key_id(id)
            .with_secret_access_key(secret.expose_secret());
    }
    builder
        .build()
        .map_err(|error| StorageError::Config(error.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_new_folder_is_its_owners_alone_and_an_old_one_stays_as_it_is() {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("data/objects");
        let rights = || root.metadata().unwrap().permissions().mode() & 0o777;
        let open = || Storage::open(&StorageConfig::Folder(root.clone())).map(drop);
        open().unwrap();
        assert_eq!(rights(), 0o700);
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o750)).unwrap();
        open().unwrap();
        assert_eq!(rights(), 0o750);
    }
}
