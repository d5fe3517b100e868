//! Audio to transcribe, and requests to make of a model: one by one, or many at once.

use std::path::Path;
use std::sync::Arc;

use dalston_engines::{
    AudioSource, Device, Runtime, RuntimeOptions, TranscribeOptions, TranscribeRequest,
    TranscriberHandle, Transcription, WavSource,
};

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

pub fn runtime() -> Runtime {
    Runtime::load(&RuntimeOptions {
        device: Device::Cpu,
        library: None,
    })
    .unwrap()
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

/// All tokens of a transcription in order, times among them where a model has such.
pub fn tokens(transcription: &Transcription) -> Vec<u32> {
    transcription
        .segments
        .iter()
        .flat_map(|segment| segment.tokens.iter().copied())
        .collect()
}
