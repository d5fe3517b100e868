//! Where models, goldens and audio are, how to read them, and models loaded once for all tests.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use dalston_engines::model_folder::{ModelFolder, Precision};
use dalston_engines::whisper::model::PublishedModel;
use dalston_engines::whisper::pipeline::{PipelineOptions, Whisper};
use dalston_engines::{
    AudioSource, Device, Runtime, RuntimeOptions, TranscribeOptions, TranscribeRequest,
    TranscriberHandle, Transcription, WavSource,
};
use serde::de::DeserializeOwned;

pub fn model_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/whisper-nano")
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

pub fn golden<T: DeserializeOwned>(name: &str) -> T {
    let path = model_dir().join("golden").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub fn runtime() -> Runtime {
    Runtime::load(&RuntimeOptions {
        device: Device::Cpu,
        library: None,
    })
    .unwrap()
}

/// Loads the nano model from any folder with its layout.
pub fn load(folder: &Path, precision: Precision) -> TranscriberHandle {
    let folder = ModelFolder::read(folder, precision, Device::Cpu).unwrap();
    let model = PublishedModel::load(&runtime(), &folder, 1).unwrap();
    let options = PipelineOptions {
        threads: 1,
        batch_size: 8,
    };
    TranscriberHandle::spawn(
        "whisper-nano",
        Whisper::new(model, folder, options).unwrap(),
    )
    .unwrap()
}

/// The float weights, which equal the reference token by token.
pub fn float_model() -> &'static TranscriberHandle {
    static MODEL: OnceLock<TranscriberHandle> = OnceLock::new();
    MODEL.get_or_init(|| load(&model_dir(), Precision::Float))
}

/// The int8 weights, which are what runs by default on a CPU.
pub fn int8_model() -> &'static TranscriberHandle {
    static MODEL: OnceLock<TranscriberHandle> = OnceLock::new();
    MODEL.get_or_init(|| load(&model_dir(), Precision::Int8))
}

/// Greedy, temperature 0, no thresholds: how the goldens were made.
pub fn golden_options() -> TranscribeOptions {
    TranscribeOptions {
        language: Some("en".to_owned()),
        temperatures: vec![0.0],
        compression_ratio_threshold: None,
        logprob_threshold: None,
        no_speech_threshold: None,
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
    let files: Vec<Arc<Vec<f32>>> = files.into_iter().map(Arc::new).collect();
    let mut answers: Vec<Option<Transcription>> = vec![None; files.len()];
    std::thread::scope(|scope| {
        for (part, files) in answers
            .chunks_mut(files.len().div_ceil(AT_ONCE))
            .zip(files.chunks(files.len().div_ceil(AT_ONCE)))
        {
            scope.spawn(move || {
                for (answer, samples) in part.iter_mut().zip(files) {
                    let request = TranscribeRequest::new(
                        Arc::clone(samples) as Arc<dyn AudioSource>,
                        options.clone(),
                    );
                    *answer = Some(model.transcribe(request).unwrap());
                }
            });
        }
    });
    answers.into_iter().map(Option::unwrap).collect()
}

/// All tokens of a transcription in order, times among them.
pub fn tokens(transcription: &Transcription) -> Vec<u32> {
    transcription
        .segments
        .iter()
        .flat_map(|segment| segment.tokens.iter().copied())
        .collect()
}
