//! Speech models through ONNX Runtime: features, decoding, words. No SQL, no HTTP, no async runtime: plain threads and
//! channels, so that every function here can be called from a test with an array.
//!
//! Read [`session`] for the runtime, [`transcription`] for what goes in and out.

pub mod align;
pub mod audio_source;
pub mod chunking;
pub mod diarize;
pub mod error;
pub mod graph;
pub mod mel;
pub mod model_folder;
pub mod parakeet;
pub mod registry;
pub mod session;
pub mod transcriber;
pub mod transcription;
pub mod vad;
pub mod watch;
pub mod whisper;

pub use align::{AlignRequest, AlignSegment, AlignedSegment, Aligner, Alignment};
pub use audio_source::{AudioSource, SAMPLE_RATE, WavSource};
pub use diarize::{
    Diarization, DiarizeRequest, DiarizedSpeaker, Diarizer, KnownSpeaker, SpeakerEmbedding,
    SpeakerSegmentation, SpeakerTurn,
};
pub use error::{EngineError, Result};
pub use model_folder::Precision;
pub use registry::{ENGINES, EngineSpec, LoadOptions, LoadedModel, ModelDescription, Stage};
pub use session::{Device, RunGuard, Runtime, RuntimeOptions, SessionOptions};
pub use transcriber::{BatchTranscriber, TranscribeRequest, TranscriberHandle};
pub use transcription::{
    CancelFlag, Control, LongForm, Progress, Segment, Settled, SpeechRegion, Task,
    TranscribeOptions, Transcription, Word,
};
pub use vad::{SileroVad, SpeechSpan, VadOptions};
