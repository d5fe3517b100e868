//! Where models, goldens and audio are, and models loaded once for all tests.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use dalston_engines::parakeet::folder::ParakeetFolder;
use dalston_engines::parakeet::pipeline::PipelineOptions;
use dalston_engines::{
    Device, Precision, TranscribeOptions, TranscriberHandle, Transcription, parakeet,
};
use serde::de::DeserializeOwned;

#[path = "../shared/requests.rs"]
mod requests;
pub use requests::{audio, runtime, tokens, transcribe, transcribe_all};

pub fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models")
}

/// The lines of a golden file.
pub fn golden<T: DeserializeOwned>(model: &str, name: &str) -> Vec<T> {
    let text = std::fs::read_to_string(models().join(model).join("golden").join(name)).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Loads a model that takes windows of up to `longest_s` seconds whole.
pub fn load(folder: &Path, precision: Precision, longest_s: f64) -> TranscriberHandle {
    load_in_batches(folder, precision, longest_s, 8)
}

/// The same, with so many windows in a batch.
pub fn load_in_batches(
    folder: &Path,
    precision: Precision,
    longest_s: f64,
    batch_size: usize,
) -> TranscriberHandle {
    let folder = ParakeetFolder::read(folder, precision, Device::Cpu).unwrap();
    let options = PipelineOptions {
        threads: 1,
        batch_size,
        frames_at_once: 3_000,
        longest_s,
    };
    let model = parakeet::open(&runtime(), folder, options).unwrap();
    TranscriberHandle::spawn("parakeet", model).unwrap()
}

/// The float TDT model; windows as long as the audio.
pub fn tdt() -> &'static TranscriberHandle {
    static MODEL: OnceLock<TranscriberHandle> = OnceLock::new();
    MODEL.get_or_init(|| load(&models().join("parakeet-tdt-nano"), Precision::Float, 1e6))
}

/// The float CTC model; windows as long as the audio.
pub fn ctc() -> &'static TranscriberHandle {
    static MODEL: OnceLock<TranscriberHandle> = OnceLock::new();
    MODEL.get_or_init(|| load(&models().join("parakeet-ctc-nano"), Precision::Float, 1e6))
}

pub fn with_words() -> TranscribeOptions {
    TranscribeOptions {
        word_timestamps: true,
        ..TranscribeOptions::default()
    }
}

/// All words of a transcription: text, start, end.
pub fn words(transcription: &Transcription) -> Vec<(String, f64, f64)> {
    let words = transcription
        .segments
        .iter()
        .flat_map(|segment| &segment.words);
    words
        .map(|word| (word.text.trim().to_owned(), word.start, word.end))
        .collect()
}
