//! What a transcriber is asked and what it answers, whichever engine runs: options, control, segments, words.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

/// A stretch of audio that holds speech, seconds from the start of the audio; `start < end`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SpeechRegion {
    /// First second of speech.
    pub start: f64,
    /// End of speech.
    pub end: f64,
}

impl SpeechRegion {
    /// Whether a sample at 16 kHz lies in the stretch; its start does, its end does not.
    pub fn contains_sample(&self, sample: u64) -> bool {
        let span = crate::vad::SpeechSpan::from(*self);
        (span.start..span.end).contains(&sample)
    }
}

/// What to make of the speech.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Text in the language spoken.
    #[default]
    Transcribe,
    /// Text in English. Only multilingual models can.
    Translate,
}

/// How audio longer than one window is walked through.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum LongForm {
    /// Window after window, each starting where the last finished segment of the one before ended. The reference
    /// algorithm: exact, and not to be batched within one file.
    #[default]
    Sequential,
    /// Independent windows packed from these speech regions, decoded side by side. Sorted, not overlapping; nothing
    /// outside them is transcribed.
    Batched(Vec<SpeechRegion>),
}

/// A request to transcribe. The defaults are those of openai/whisper's `transcribe`, greedy and without words.
#[derive(Debug, Clone, PartialEq)]
pub struct TranscribeOptions {
    /// ISO 639-1 code as in the model's own list (`en`, `de`, `yue` …); `None` detects it from the first speech.
    pub language: Option<String>,
    /// Transcribe or translate.
    pub task: Task,
    /// Beams at temperature 0; 1 is greedy.
    pub beam_size: usize,
    /// Beam search goes on until this many times `beam_size` hypotheses have ended (Kasai et al., 2022).
    pub patience: f32,
    /// Exponent of Google NMT's length penalty; `None` divides by the length.
    pub length_penalty: Option<f32>,
    /// Temperatures to try in turn while a window fails its tests; never empty.
    pub temperatures: Vec<f32>,
    /// Seed of sampling at temperatures above 0: the same seed gives the same text.
    pub seed: u64,
    /// Text that compresses better than this failed (it repeats itself). `None`: no such test.
    pub compression_ratio_threshold: Option<f32>,
    /// An average log-probability below this failed. `None`: no such test.
    pub logprob_threshold: Option<f32>,
    /// With a no-speech probability above this *and* a failing average log-probability, a window is silence.
    pub no_speech_threshold: Option<f32>,
    /// Whether each window is prompted with the text before it. Only in [`LongForm::Sequential`].
    pub condition_on_previous_text: bool,
    /// Whether the model predicts segment times. Without them each window is one segment.
    pub timestamps: bool,
    /// Whether words get times, by dynamic time warping over cross-attention.
    pub word_timestamps: bool,
    /// Text to continue from: context, spelling and style.
    pub prompt: Option<String>,
    /// Words to listen for. They stand in every window's prompt.
    pub vocabulary: Vec<String>,
    /// How to walk through long audio.
    pub long_form: LongForm,
    /// In [`LongForm::Batched`], only the windows that begin in this stretch. They are packed as if all were wanted, so
    /// that the parts of a file together decode exactly the windows of the whole.
    pub part: Option<SpeechRegion>,
}

impl Default for TranscribeOptions {
    fn default() -> Self {
        Self {
            language: None,
            task: Task::Transcribe,
            beam_size: 1,
            patience: 1.0,
            length_penalty: None,
            temperatures: vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
            seed: 0,
            compression_ratio_threshold: Some(2.4),
            logprob_threshold: Some(-1.0),
            no_speech_threshold: Some(0.6),
            condition_on_previous_text: false,
            timestamps: true,
            word_timestamps: false,
            prompt: None,
            vocabulary: Vec::new(),
            long_form: LongForm::Sequential,
            part: None,
        }
    }
}

/// A transcript as the engine made it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transcription {
    /// All segments' text, joined, without leading or trailing space.
    pub text: String,
    /// Code of the language of the text's speech.
    pub language: String,
    /// Probability of that language, 0–1; `None` when the caller named it or the model knows only one.
    pub language_probability: Option<f32>,
    /// Length of the audio, seconds.
    pub duration: f64,
    /// Segments in order of time.
    pub segments: Vec<Segment>,
    /// What the caller should know: a feature the model lacks, a window given up.
    pub warnings: Vec<String>,
}

/// A stretch of text with its times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Start in the audio, seconds.
    pub start: f64,
    /// End in the audio, seconds; never before `start`.
    pub end: f64,
    /// The text as decoded, leading space included.
    pub text: String,
    /// Token ids, time tokens included.
    pub tokens: Vec<u32>,
    /// Natural log-probability of each of `tokens` under the model, after the decoding rules.
    pub token_logprobs: Vec<f32>,
    /// Words with times; empty unless asked for.
    pub words: Vec<Word>,
    /// Average log-probability of the window this segment is from.
    pub avg_logprob: f32,
    /// Probability that the window holds no speech, 0–1; `None` from a model that has no such estimate.
    pub no_speech_prob: Option<f32>,
    /// Length of the window's text over its length compressed by zlib.
    pub compression_ratio: f32,
    /// Temperature the window was decoded at.
    pub temperature: f32,
}

/// A word with its times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Word {
    /// Start in the audio, seconds.
    pub start: f64,
    /// End in the audio, seconds.
    pub end: f64,
    /// The word with its leading space and punctuation, so that words joined give the segment's text.
    pub text: String,
    /// Mean probability of its tokens, 0–1.
    pub probability: f32,
}

/// Raised by the caller to stop a running call; clones share the flag.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// A flag that is down.
    pub fn new() -> Self {
        Self::default()
    }

    /// Raises the flag; it never comes down again.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether it is raised.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Receives the seconds of audio finished so far; only grows, ends at the duration.
pub type Progress = Arc<dyn Fn(f64) + Send + Sync>;

/// Receives segments that are certain before the call ends, each once and in order of time.
pub type Settled = Arc<dyn Fn(&[Segment]) + Send + Sync>;

/// The caller's hand on a running call.
#[derive(Clone, Default)]
pub struct Control {
    /// Stops the call with [`crate::EngineError::Cancelled`] within one decode step.
    pub cancel: CancelFlag,
    /// Called from the engine's thread; must not block.
    pub progress: Option<Progress>,
    /// Called from the engine's thread; must not block. An engine that knows its segments only at the end never calls
    /// it, and the last ones come with the answer alone.
    pub settled: Option<Settled>,
}

impl Control {
    /// Reports progress, seconds of audio done.
    pub fn report(&self, seconds: f64) {
        if let Some(progress) = &self.progress {
            progress(seconds);
        }
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control")
            .field("cancel", &self.cancel)
            .finish_non_exhaustive()
    }
}
