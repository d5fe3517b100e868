//! Reads the facts of a stored object: from its file when the store is a folder, else by ranged reads.

use std::io::{Read, Seek, SeekFrom};

use bytes::Bytes;
use dalston_audio::{AudioError, AudioFacts, AudioInput, AudioLimits};
use dalston_schema::{ArtifactKey, Storage};
use tokio::runtime::Handle;

use crate::state::App;

/// Bytes fetched from the store at a time.
const READ_AHEAD: u64 = 1 << 20;

/// Probes a stored object on a thread of its own; at most a few at a time, because it is work for the processor.
///
/// # Errors
/// As [`dalston_audio::probe`].
pub async fn probe_stored(app: &App, key: &ArtifactKey) -> Result<AudioFacts, AudioError> {
    let permit = app.probes.clone().acquire_owned().await;
    let (storage, key) = (app.storage.clone(), key.clone());
    let runtime = Handle::current();
    let probed = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let input = match storage.local_path(&key) {
            Some(path) => AudioInput::open(&path)?,
            None => AudioInput::new(StoredReader::open(storage, key, runtime)?)?,
        };
        dalston_audio::probe(input, &AudioLimits::default())
    });
    probed
        .await
        .unwrap_or_else(|error| Err(AudioError::Io(std::io::Error::other(error))))
}

/// A stored object as a blocking, seekable reader. Only for threads outside the async runtime.
struct StoredReader {
    storage: Storage,
    key: ArtifactKey,
    runtime: Handle,
    size: u64,
    position: u64,
    /// The bytes fetched last, and where they start.
    window: (u64, Bytes),
}

impl StoredReader {
    fn open(storage: Storage, key: ArtifactKey, runtime: Handle) -> std::io::Result<Self> {
        let size = runtime
            .block_on(storage.size(&key))
            .map_err(std::io::Error::other)?;
        Ok(Self {
            storage,
            key,
            runtime,
            size,
            position: 0,
            window: (0, Bytes::new()),
        })
    }
}

impl Read for StoredReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.position >= self.size || buffer.is_empty() {
            return Ok(0);
        }
        let (start, bytes) = &self.window;
        if self.position < *start || self.position >= start + bytes.len() as u64 {
            let end = (self.position + READ_AHEAD).min(self.size);
            let fetched = self
                .runtime
                .block_on(self.storage.read_range(&self.key, self.position..end))
                .map_err(std::io::Error::other)?;
            self.window = (self.position, fetched);
        }
        let (start, bytes) = &self.window;
        let available = bytes
            .get((self.position - start) as usize..)
            .unwrap_or_default();
        let n = available.len().min(buffer.len());
        buffer[..n].copy_from_slice(&available[..n]);
        self.position += n as u64;
        Ok(n)
    }
}

impl Seek for StoredReader {
    fn seek(&mut self, target: SeekFrom) -> std::io::Result<u64> {
        let position = match target {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(delta) => self.size.checked_add_signed(delta),
            SeekFrom::Current(delta) => self.position.checked_add_signed(delta),
        };
        self.position = position.ok_or_else(|| {
            std::io::Error::new(std::io::ErrorKind::InvalidInput, "seek before the start")
        })?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use dalston_schema::JobId;
    use dalston_schema::storage::StorageConfig;

    #[tokio::test]
    async fn ranged_reads_give_the_same_bytes_as_the_object() {
        let storage = Storage::open(&StorageConfig::Memory).unwrap();
        let key = ArtifactKey::original_audio(JobId::generate(), "wav");
        let object: Vec<u8> = (0..2_500_000u32).map(|n| (n % 251) as u8).collect();
        storage
            .put(&key, Bytes::from(object.clone()))
            .await
            .unwrap();
        let runtime = Handle::current();
        tokio::task::spawn_blocking(move || {
            let mut reader = StoredReader::open(storage, key, runtime).unwrap();
            let mut read = Vec::new();
            reader.read_to_end(&mut read).unwrap();
            assert!(read == object);
            for (target, expected) in [
                (SeekFrom::Start(1_048_570), 1_048_570),
                (SeekFrom::End(-3), 2_499_997),
                (SeekFrom::Current(-97), 2_499_900),
            ] {
                assert_eq!(reader.seek(target).unwrap(), expected);
                let mut byte = [0];
                reader.read_exact(&mut byte).unwrap();
                assert_eq!(byte[0], object[expected as usize]);
                reader.seek(SeekFrom::Start(expected)).unwrap();
            }
            assert!(reader.seek(SeekFrom::End(-3_000_000)).is_err());
        })
        .await
        .unwrap();
    }
}
