//! What each stage is given and what it answers, stored as JSON with the task. A new field needs a default, so that a row
//! written by an older version still reads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::NewTask;
use crate::ids::TaskId;
use crate::job::SpeakerReference;
use crate::transcript::{Segment, SpeakerTurn};

/// What `prepare` is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PrepareRequest {
    /// Write one prepared file per channel instead of a mono mix.
    pub split_channels: bool,
    /// Files to prepare instead of the job's upload, one prepared file each; empty for the upload alone.
    pub tracks: Vec<TrackSource>,
    /// How to cut the prepared audio into tasks; `None` when the plan holds the transcribing tasks already.
    pub fan_out: Option<FanOut>,
}

/// One of several files of a job, with one speaker on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrackSource {
    /// Object-store key of the file.
    pub key: String,
    /// Where it begins on the job's clock, in seconds, not negative.
    pub offset: f64,
}

/// How `prepare` cuts a long file into tasks that several workers take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FanOut {
    /// Length of a chunk aimed at, seconds.
    pub target_seconds: f64,
    /// Shortest chunk, seconds.
    pub minimum_seconds: f64,
    /// The task that waits for all of them.
    pub before: TaskId,
    /// What becomes tasks: one branch, or one per channel.
    pub branches: Vec<Branch>,
}

/// The tasks of one prepared file, as the planner would have made them for the whole of it. Each chunk gets a copy with
/// an id and a name of its own (`transcribe_c000`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Branch {
    /// Transcribes; its request is a [`TranscribeRequest`].
    pub transcribe: NewTask,
    /// Aligns what `transcribe` answered; its request is an [`AlignRequest`].
    pub align: Option<NewTask>,
}

/// What `transcribe` is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TranscribeRequest {
    /// Language (ISO 639-1), or `None` to detect it.
    pub language: Option<String>,
    /// Translate to English instead of transcribing.
    pub translate: bool,
    /// Text that conditions the model's style and spelling.
    pub prompt: Option<String>,
    /// Words the model should expect.
    pub vocabulary: Vec<String>,
    /// Sampling temperature 0–1; `None` runs the fallback ladder from 0.
    pub temperature: Option<f32>,
    /// Beams; 1 is greedy.
    pub beam_size: u32,
    /// Ask for word times.
    pub word_timestamps: bool,
    /// Channel to read when `prepare` wrote several files.
    pub channel: Option<u16>,
    /// Part of the file when a long file was cut into chunks.
    pub chunk: Option<Chunk>,
    /// Stages that the same task runs on its result, in the integrated mode.
    pub integrated: Option<IntegratedStages>,
}

/// The stages that a `transcribe` task of the integrated mode runs as well, as tasks that a worker without the models
/// adds to the job instead.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IntegratedStages {
    /// Aligns the transcription; its request is an [`AlignRequest`].
    pub align: Option<NewTask>,
    /// Tells speakers apart; its request is a [`DiarizeRequest`].
    pub diarize: Option<NewTask>,
    /// The task that waits for them if they become tasks.
    pub before: TaskId,
}

/// A part of the prepared audio, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chunk {
    /// Position among its siblings, from 0.
    pub index: u32,
    /// Start, in seconds from the beginning of the file.
    pub start: f64,
    /// End, in seconds.
    pub end: f64,
}

/// What `align` is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AlignRequest {
    /// Name of the `transcribe` task whose segments get word times.
    pub transcription: String,
    /// Language asked for (ISO 639-1); `None` takes the one that was detected.
    pub language: Option<String>,
    /// Channel to read when `prepare` wrote several files.
    pub channel: Option<u16>,
    /// Part of the file that the transcription covers; only its length counts, for progress.
    pub chunk: Option<Chunk>,
}

/// What `diarize` is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiarizeRequest {
    /// Exact number of speakers.
    pub num_speakers: Option<u32>,
    /// Fewest speakers.
    pub min_speakers: Option<u32>,
    /// Most speakers.
    pub max_speakers: Option<u32>,
    /// Model that describes voices; `None` lets the worker take the largest it has.
    pub embedding_model: Option<String>,
    /// Recordings of speakers whose names are known.
    pub known_speakers: Vec<SpeakerReference>,
}

/// What `merge` is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MergeRequest {}

/// One prepared 16 kHz mono file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PreparedAudio {
    /// Object-store key of the WAV.
    pub key: String,
    /// Channel of the original, or place of its file among several; `None` for a mono mix.
    pub channel: Option<u16>,
    /// Where it begins on the job's clock, in seconds; 0 unless the job has several files.
    pub offset: f64,
    /// Length in seconds.
    pub duration: f64,
    /// Level over the whole file, dBFS.
    pub rms_dbfs: f64,
    /// Speech found by voice activity detection, `[start, end]` in seconds of this file.
    pub speech_regions: Vec<(f64, f64)>,
    /// Lowest and highest sample per bucket over the file, −1 to 1, at most 2,000 buckets.
    pub peaks: Vec<(f32, f32)>,
    /// Where its microphone picked up the speaker of another channel; left out when nowhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bleed: Vec<Bleed>,
}

/// What a channel holds of another one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bleed {
    /// The louder channel.
    pub from: u16,
    /// `[start, end]` in seconds, in order and apart.
    pub regions: Vec<(f64, f64)>,
}

/// What `prepare` answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrepareResponse {
    /// Facts of the original; of the first, with the length of all together, when there are several.
    pub source: SourceAudio,
    /// The prepared files: one, or one per channel or track.
    pub channel_files: Vec<PreparedAudio>,
    /// Share of the audio that is speech, 0–1.
    pub speech_ratio: f64,
    /// Things a user should know.
    pub warnings: Vec<String>,
}

/// Facts of an upload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceAudio {
    /// Container, for example `wav` or `mp4`.
    pub format: String,
    /// Codec, for example `pcm_s16le` or `aac`.
    pub codec: String,
    /// Length in seconds.
    pub duration: f64,
    /// Samples a second.
    pub sample_rate: u32,
    /// Channels.
    pub channels: u16,
    /// Bits a sample, where the codec has such a thing.
    pub bit_depth: Option<u16>,
}

/// What `transcribe` answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TranscribeResponse {
    /// The whole text.
    pub text: String,
    /// Segments in order, times in seconds of the prepared file.
    pub segments: Vec<Segment>,
    /// Language of the text (ISO 639-1).
    pub language: String,
    /// Probability of that language, 0–1, when it was detected.
    pub language_confidence: Option<f64>,
    /// `requested` or `detected`; empty when neither, as when a model knows one language or nobody speaks.
    pub language_source: String,
    /// Engine that ran.
    pub engine: String,
    /// Model that ran.
    pub model: String,
    /// Where it ran: `cpu` or `cuda`.
    pub device: String,
    /// How word times were made, for example `attention`; `None` without words.
    pub alignment_method: Option<String>,
    /// Channel, when the file was split.
    pub channel: Option<u16>,
    /// Part of the file, when it was cut into chunks.
    pub chunk: Option<Chunk>,
    /// What `align` would have answered, when the same task ran it (integrated mode).
    pub alignment: Option<AlignResponse>,
    /// What `diarize` would have answered, when the same task ran it (integrated mode).
    pub diarization: Option<DiarizeResponse>,
    /// Things a user should know.
    pub warnings: Vec<String>,
}

/// What `align` answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AlignResponse {
    /// Name of the `transcribe` task whose segments these are.
    pub transcription: String,
    /// The transcription's segments, with words; times in seconds of the prepared file.
    pub segments: Vec<Segment>,
    /// Language of the text (ISO 639-1).
    pub language: String,
    /// Words have times.
    pub word_timestamps: bool,
    /// Mean probability of the words' characters at the times they were given, 0–1.
    pub alignment_confidence: Option<f64>,
    /// Share of the words that got no time of their own, 0–1.
    pub unaligned_ratio: f64,
    /// `word`, or `segment` when nothing could be aligned.
    pub granularity_achieved: String,
    /// How word times were made, for example `phoneme_wav2vec`.
    pub alignment_method: Option<String>,
    /// Engine that ran.
    pub engine: String,
    /// Model that ran.
    pub model: String,
    /// Where it ran: `cpu` or `cuda`.
    pub device: String,
    /// Nothing was aligned; `skip_reason` says why.
    pub skipped: bool,
    /// Why nothing was aligned.
    pub skip_reason: Option<String>,
    /// Things a user should know.
    pub warnings: Vec<String>,
}

/// What `diarize` answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiarizeResponse {
    /// Who speaks when, in order of start, times in seconds of the prepared file.
    pub turns: Vec<SpeakerTurn>,
    /// Speakers (`SPEAKER_00` …) in order of first speech.
    pub speakers: Vec<String>,
    /// Names of the speakers that were recognised by their recordings.
    pub names: BTreeMap<String, String>,
    /// How many speakers there are.
    pub num_speakers: u32,
    /// Seconds in which more than one speaks.
    pub overlap_duration: f64,
    /// The same as a share of the speech, 0–1.
    pub overlap_ratio: f64,
    /// Engine that ran.
    pub engine: String,
    /// Model that found the turns.
    pub model: String,
    /// Model that told the voices apart.
    pub embedding_model: String,
    /// Where it ran: `cpu` or `cuda`.
    pub device: String,
    /// Things a user should know.
    pub warnings: Vec<String>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_of_the_first_version_still_read() {
        let request = json!({
            "language": null, "translate": false, "prompt": null, "vocabulary": [], "temperature": null,
            "beam_size": 5, "word_timestamps": true, "channel": null, "chunk": null
        });
        let request: TranscribeRequest = serde_json::from_value(request).unwrap();
        assert_eq!((request.beam_size, request.integrated), (5, None));
        let audio = json!({
            "key": "jobs/x/prepared.wav", "channel": null, "duration": 2.0, "rms_dbfs": -20.0,
            "speech_regions": [[0.5, 1.5]], "peaks": []
        });
        let audio: PreparedAudio = serde_json::from_value(audio).unwrap();
        assert_eq!(
            (audio.offset, audio.speech_regions),
            (0.0, vec![(0.5, 1.5)])
        );
        let prepare: PrepareRequest =
            serde_json::from_value(json!({"split_channels": true})).unwrap();
        assert!(prepare.split_channels && prepare.fan_out.is_none());
    }
}
