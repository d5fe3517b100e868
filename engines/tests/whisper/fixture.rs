//! Where models, goldens and audio are, how to read them, and models loaded once for all tests.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use dalston_engines::model_folder::{ModelFolder, Precision};
use dalston_engines::whisper::model::PublishedModel;
use dalston_engines::whisper::pipeline::{PipelineOptions, Whisper};
use dalston_engines::{Device, TranscribeOptions, TranscriberHandle};
use serde::de::DeserializeOwned;

#[path = "../shared/requests.rs"]
mod requests;
pub use requests::{audio, runtime, tokens, transcribe, transcribe_all};

pub fn model_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/whisper-nano")
}

pub fn golden<T: DeserializeOwned>(name: &str) -> T {
    let path = model_dir().join("golden").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
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
