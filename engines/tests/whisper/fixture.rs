//! Where models, goldens and audio are, and how to read them.

use std::path::{Path, PathBuf};

use dalston_engines::{AudioSource, WavSource};
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
