//! The facts of a recording in several files: each file's length and place on one clock.

use dalston_audio::AudioLimits;
use dalston_schema::job::{Track, UploadedAudio};

use super::{IngestError, Received, probe};
use crate::error::ApiError;
use crate::native::tracks::TrackField;
use crate::state::App;

/// Looks at every further file and places all of them. `audio` describes the first file and afterwards the recording:
/// from the clock's zero to the last end, all bytes together.
///
/// # Errors
/// 400 when there are more or fewer files than descriptions, or the recording is too long; [`IngestError::Audio`].
pub async fn place(
    app: &App,
    received: &Received,
    audio: &mut UploadedAudio,
    described: &[TrackField],
) -> Result<Vec<Track>, IngestError> {
    let n_files = 1 + received.further.len();
    if described.len() != n_files {
        return Err(ApiError::bad_request(format!(
            "tracks describes {} files, but {n_files} came; send one 'file' for each object, in the same order",
            described.len()
        ))
        .into());
    }
    let mut lengths = vec![(audio.key.clone(), audio.duration)];
    for (index, file) in received.further.iter().enumerate() {
        let facts = match probe::probe_stored(app, &file.key).await {
            Ok(facts) => facts,
            Err(error) if error.is_client_error() => {
                let message = format!("File {} ({}): {error}", index + 2, file.file_name);
                return Err(ApiError::bad_request(message).into());
            }
            Err(error) => return Err(IngestError::Audio(error)),
        };
        lengths.push((file.key.as_str().to_owned(), facts.duration));
        audio.size_bytes += file.size_bytes;
    }
    let tracks: Vec<Track> = described
        .iter()
        .zip(lengths)
        .map(|(field, (key, duration))| Track {
            key,
            offset: field.offset,
            duration,
            name: field.name.clone(),
        })
        .collect();
    let ends = tracks.iter().map(|track| track.offset + track.duration);
    audio.duration = ends.fold(0.0, f64::max);
    AudioLimits::default()
        .check(audio.duration)
        .map_err(IngestError::Audio)?;
    Ok(tracks)
}
