//! An upload: the file of a form goes to the object store while it is being read.
//!
//! Memory is a few parts of the object store's upload, whatever the size of the file, and the other fields of the form
//! may come before or after it.

use bytes::Bytes;
use dalston_schema::JobId;
use futures_util::TryStreamExt;
use sha2::{Digest, Sha256};
use tokio_util::io::ReaderStream;

use super::{IngestError, Received, extension_of};
use crate::error::ApiError;
use crate::form::{Fields, FilePart, Form};
use crate::state::App;

/// Bytes read from the form at a time.
const READ_BYTES: usize = 64 << 10;

/// Reads a form to its end, its texts into `fields` and its `file` into the object store. `limit` tells, from the fields
/// that came before the file, how large it may be. `fingerprint` asks for the SHA-256 of the file.
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
    let mut file = None;
    while let Some(part) = form.next(fields).await? {
        if part.field != "file" {
            continue;
        }
        if file.is_some() {
            return Err(ApiError::bad_request("Send exactly one 'file'").into());
        }
        if part.file_name.trim().is_empty() {
            return Err(ApiError::bad_request("File must have a filename").into());
        }
        file = Some(store(app, part, limit(fields), fingerprint).await?);
    }
    if file.is_none() && fields.has("file") {
        return Err(ApiError::bad_request("File must have a filename").into());
    }
    Ok(file)
}

async fn store(
    app: &App,
    part: FilePart,
    limit: u64,
    fingerprint: bool,
) -> Result<Received, IngestError> {
    let extension = extension_of(&part.file_name);
    let mut received = Received::reserve(&app.storage, JobId::generate(), &extension);
    received.origin.file_name = Some(part.file_name);
    let mut digest = fingerprint.then(Sha256::new);
    let stream = ReaderStream::with_capacity(part.content.into_async_read(), READ_BYTES)
        .inspect_ok(|bytes: &Bytes| {
            if let Some(digest) = &mut digest {
                digest.update(bytes);
            }
        });
    let stored = app
        .storage
        .put_stream(&received.key, Box::pin(stream), limit)
        .await;
    match stored {
        Ok(size) => {
            received.size_bytes = size;
            received.origin.fingerprint = digest.map(|digest| hex::encode(digest.finalize()));
            metrics::counter!("dalston_gateway_upload_bytes_total").increment(size);
            Ok(received)
        }
        Err(error) => {
            received.discard().await;
            Err(error.into())
        }
    }
}
