//! Finds speech in prepared audio with Silero VAD. The model is small: each task that runs takes a session of its own,
//! and sessions are kept for the next.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use dalston_engines::{AudioSource, Control, Runtime, SileroVad, SpeechRegion, VadOptions};

use crate::coverage::Interval;
use crate::failure::{StageError, StageResult};
use crate::times::milliseconds;

/// How speech is cut. Words at the edge of a region are kept by the padding; short pauses inside a sentence do not cut it.
const OPTIONS: VadOptions = VadOptions {
    threshold: 0.5,
    neg_threshold: None,
    min_speech_duration_ms: 100.0,
    max_speech_duration_s: f64::INFINITY,
    min_silence_duration_ms: 300.0,
    speech_pad_ms: 200.0,
    min_silence_at_max_speech_ms: 98.0,
};

/// Finds speech; clones share the sessions.
#[derive(Clone, Debug)]
pub struct SpeechFinder {
    runtime: Runtime,
    folder: PathBuf,
    idle: Arc<Mutex<Vec<SileroVad>>>,
}

impl SpeechFinder {
    /// Takes the model from its folder when first needed.
    #[must_use]
    pub fn new(runtime: Runtime, folder: PathBuf) -> Self {
        Self {
            runtime,
            folder,
            idle: Arc::default(),
        }
    }

    /// Finds the speech in `audio`, in seconds, in order and without overlap. Blocks; memory does not grow with the
    /// length.
    ///
    /// # Errors
    /// [`StageError::Stopped`] within seconds of audio of being stopped, else why it failed.
    pub fn find(&self, audio: &dyn AudioSource, control: &Control) -> StageResult<Vec<Interval>> {
        let idle = self.idle().pop();
        let mut vad = match idle {
            Some(vad) => vad,
            None => SileroVad::load(&self.runtime, &self.folder)?,
        };
        let spans = vad.speech(audio, &OPTIONS, control);
        self.idle().push(vad);
        Ok(spans
            .map_err(StageError::from)?
            .into_iter()
            .map(SpeechRegion::from)
            .map(|region| (milliseconds(region.start), milliseconds(region.end)))
            .collect())
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<SileroVad>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
