//! Recordings of known speakers: stored beside the job's audio, looked at, and refused when they cannot serve.

use std::ops::RangeInclusive;

use dalston_schema::job::SpeakerReference;
use dalston_schema::{ArtifactKey, JobId};

use super::{IngestError, probe};
use crate::speakers::{CLIPS, Clip, SpeakerError};
use crate::state::App;

/// Seconds of speech that describe a voice. A codec's padding makes a file a little longer than what was recorded.
const SECONDS: RangeInclusive<f64> = 1.95..=10.15;

/// Stores recordings under their job and checks each; whoever owns the job's audio deletes them with it.
///
/// # Errors
/// [`IngestError::Speakers`] for what is no audio, too short or too long; [`IngestError::Storage`].
pub async fn store(
    app: &App,
    job: JobId,
    clips: Vec<Clip>,
) -> Result<Vec<SpeakerReference>, IngestError> {
    let mut stored = Vec::with_capacity(clips.len());
    for (index, clip) in clips.into_iter().enumerate() {
        let refuse = |why: String| {
            let message = format!("{CLIPS}[{index}] ({}) {why}", clip.name);
            IngestError::Speakers(SpeakerError::clip(message))
        };
        let key = ArtifactKey::speaker_reference(job, index, &clip.extension);
        app.storage.put(&key, clip.content.clone()).await?;
        let facts = match probe::probe_stored(app, &key).await {
            Ok(facts) => facts,
            Err(error) if error.is_client_error() => {
                return Err(refuse(format!("cannot be used: {error}")));
            }
            Err(error) => return Err(IngestError::Audio(error)),
        };
        if !SECONDS.contains(&facts.duration) {
            return Err(refuse(format!(
                "lasts {:.1} s; send 2 to 10 s of the speaker alone",
                facts.duration
            )));
        }
        stored.push(SpeakerReference {
            name: clip.name,
            key: key.as_str().to_owned(),
        });
    }
    Ok(stored)
}
