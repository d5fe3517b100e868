//! Where models, goldens and audio are, and models loaded once for all tests.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use dalston_engines::parakeet::folder::ParakeetFolder;
use dalston_engines::parakeet::pipeline::PipelineOptions;
use dalston_engines::{
    AudioSource, Device, Precision, Runtime, RuntimeOptions, TranscribeOptions, TranscribeRequest,
    TranscriberHandle, Transcription, WavSource, parakeet,
};
use serde::de::DeserializeOwned;

pub fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models")
}

/// A file of `tests/audio`, whole.
pub fn audio(name: &str) -> Vec<f32> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/audio")
        .join(name);
    let source = WavSource::open(&path).unwrap();
    let mut samples = vec![0.0; usize::try_from(source.n_samples()).unwrap()];
    source.read(0, &mut samples).unwrap();
    samples
}

/// The lines of a golden file.
pub fn golden<T: DeserializeOwned>(model: &str, name: &str) -> Vec<T> {
    let text = std::fs::read_to_string(models().join(model).join("golden").join(name)).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

pub fn runtime() -> Runtime {
    Runtime::load(&RuntimeOptions {
        device: Device::Cpu,
        library: None,
    })
    .unwrap()
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

pub fn transcribe(
    model: &TranscriberHandle,
    samples: Vec<f32>,
    options: TranscribeOptions,
) -> Transcription {
    model
        .transcribe(TranscribeRequest::new(Arc::new(samples), options))
        .unwrap()
}

/// Transcribes many files at once, so that they share batches; answers in order.
pub fn transcribe_all(
    model: &TranscriberHandle,
    files: Vec<Vec<f32>>,
    options: &TranscribeOptions,
) -> Vec<Transcription> {
    const AT_ONCE: usize = 8;
    let share = files.len().div_ceil(AT_ONCE).max(1);
    std::thread::scope(|scope| {
        let running: Vec<_> = files
            .chunks(share)
            .map(|files| {
                scope.spawn(move || {
                    let answers = files
                        .iter()
                        .map(|samples| transcribe(model, samples.clone(), options.clone()));
                    answers.collect::<Vec<_>>()
                })
            })
            .collect();
        running
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    })
}

/// All tokens of a transcription in order.
pub fn tokens(transcription: &Transcription) -> Vec<u32> {
    transcription
        .segments
        .iter()
        .flat_map(|segment| segment.tokens.iter().copied())
        .collect()
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
