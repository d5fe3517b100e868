//! An upload: the files of a form go to the object store while it is being read.
//!
//! Memory is a few parts of the object store's upload, whatever the size of the file, and the other fields of the form
//! may come before or after it.

use bytes::Bytes;
use dalston_schema::{ArtifactKey, JobId};
use futures_util::TryStreamExt;
use sha2::{Digest, Sha256};
use tokio_util::io::ReaderStream;

use super::{FurtherFile, IngestError, Received, extension_of};
use crate::error::ApiError;
use crate::form::{Fields, FilePart, Form};
use crate::native::tracks::MOST_TRACKS;
use crate::state::App;

/// Bytes read from the form at a time.
const READ_BYTES: usize = 64 << 10;

/// Reads a form to its end, its texts into `fields` and every `file` into the object store under one job. `limit` tells,
/// from the fields that came before a file, how large all may be together. `fingerprint` asks for the SHA-256 of each.
///
/// # Errors
/// Whatever stopped the upload; nothing stays stored then.
pub async fn read_form<D>(
    app: &App,
    mut form: Form<D>,
    fields: &mut Fields,
    limit: impl Fn(&Fields) -> u64,
    fingerprint: bool,
) -> Result<Option<Received>, IngestError> {
    let mut received: Option<Received> = None;
    while let Some(part) = form.next(fields).await? {
        if part.field != "file" {
            return Err(ApiError::bad_request(format!(
                "Form field '{}' is a file; audio is sent as 'file'",
                part.field
            ))
            .into());
        }
        if part.file_name.trim().is_empty() {
            return Err(ApiError::bad_request("File must have a filename").into());
        }
        match &mut received {
            None => received = Some(first(app, part, limit(fields), fingerprint).await?),
            Some(received) if received.further.len() + 1 < MOST_TRACKS => {
                add(app, received, part, limit(fields), fingerprint).await?;
            }
            Some(_) => {
                let message = format!("A recording may have at most {MOST_TRACKS} files");
                return Err(ApiError::bad_request(message).into());
            }
        }
    }
    if received.is_none() && fields.has("file") {
        return Err(ApiError::bad_request("File must have a filename").into());
    }
    Ok(received)
}

/// Stores the first file, which makes the job.
async fn first(
    app: &App,
    part: FilePart,
    limit: u64,
    fingerprint: bool,
) -> Result<Received, IngestError> {
    let extension = extension_of(&part.file_name);
    let mut received = Received::reserve(&app.storage, JobId::generate(), &extension);
    received.origin.file_name = Some(part.file_name);
    match store(app, &received.key, part.content, limit, fingerprint).await {
        Ok((size, digest)) => {
            received.size_bytes = size;
            received.origin.fingerprint = digest;
            Ok(received)
        }
        Err(error) => {
            received.discard().await;
            Err(error)
        }
    }
}

/// Stores a further file of the same recording.
async fn add(
    app: &App,
    received: &mut Received,
    part: FilePart,
    limit: u64,
    fingerprint: bool,
) -> Result<(), IngestError> {
    let index = received.further.len() + 1;
    let extension = extension_of(&part.file_name);
    let key = ArtifactKey::track_audio(received.job(), index, &extension);
    let others: u64 = received.further.iter().map(|file| file.size_bytes).sum();
    let room = limit.saturating_sub(received.size_bytes + others);
    let stored = store(app, &key, part.content, room, fingerprint).await;
    let (size_bytes, digest) = stored.map_err(|error| match error {
        IngestError::TooLarge { .. } => IngestError::TooLarge { limit },
        error => error,
    })?;
    received.further.push(FurtherFile {
        key,
        file_name: part.file_name,
        size_bytes,
    });
    if let (Some(all), Some(this)) = (&mut received.origin.fingerprint, digest) {
        all.push(',');
        all.push_str(&this);
    }
    Ok(())
}

/// Stores a file and answers its size and, when asked for, its SHA-256.
async fn store(
    app: &App,
    key: &ArtifactKey,
    content: poem::web::Field,
    limit: u64,
    fingerprint: bool,
) -> Result<(u64, Option<String>), IngestError> {
    let mut digest = fingerprint.then(Sha256::new);
    let stream = ReaderStream::with_capacity(content.into_async_read(), READ_BYTES).inspect_ok(
        |bytes: &Bytes| {
            if let Some(digest) = &mut digest {
                digest.update(bytes);
            }
        },
    );
    let size = app.storage.put_stream(key, Box::pin(stream), limit).await?;
    metrics::counter!("dalston_gateway_upload_bytes_total").increment(size);
    Ok((size, digest.map(|digest| hex::encode(digest.finalize()))))
}
