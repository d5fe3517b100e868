//! Where models, references and audio are, and the models loaded once for all tests.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use dalston_engines::{
    AudioSource, Device, Diarizer, LoadOptions, Precision, Runtime, RuntimeOptions,
    SpeakerEmbedding, SpeakerSegmentation, WavSource,
};

/// The six dialogues and how many speak in each.
pub const DIALOGUES: [(&str, usize); 6] = [
    ("dlg01", 2),
    ("dlg02", 2),
    ("dlg03", 2),
    ("dlg04", 2),
    ("dlg05", 3),
    ("dlg06", 3),
];

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn model_dir(name: &str) -> PathBuf {
    here().join("models").join(name)
}

/// A file that the reference pipeline made.
pub fn reference(name: &str) -> PathBuf {
    here().join("tests/diarize/reference").join(name)
}

pub fn dialogue(name: &str) -> Arc<dyn AudioSource> {
    let path = here().join(format!("../tests/audio/dialogues/{name}.wav"));
    Arc::new(WavSource::open(&path).unwrap())
}

/// Who really speaks when.
pub fn truth(name: &str) -> PathBuf {
    here().join(format!("../tests/audio/dialogues/{name}.rttm"))
}

pub fn runtime() -> Runtime {
    Runtime::load(&RuntimeOptions {
        device: Device::Cpu,
        library: None,
    })
    .unwrap()
}

pub fn options() -> LoadOptions {
    LoadOptions {
        precision: Precision::Auto,
        threads: 1,
        batch_size: 8,
    }
}

pub fn segmentation() -> SpeakerSegmentation {
    static MODEL: OnceLock<SpeakerSegmentation> = OnceLock::new();
    let load = || {
        let folder = model_dir("pyannote-segmentation-nano");
        SpeakerSegmentation::load(&runtime(), &folder, &options()).unwrap()
    };
    MODEL.get_or_init(load).clone()
}

pub fn embedding() -> SpeakerEmbedding {
    static MODEL: OnceLock<SpeakerEmbedding> = OnceLock::new();
    let load = || {
        let folder = model_dir("wespeaker-nano");
        SpeakerEmbedding::load(&runtime(), &folder, &options()).unwrap()
    };
    MODEL.get_or_init(load).clone()
}

pub fn diarizer() -> Diarizer {
    Diarizer::new(segmentation(), embedding())
}

/// Little-endian floats.
pub fn floats(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    let numbers = bytes.chunks_exact(4);
    numbers
        .map(|number| f32::from_le_bytes([number[0], number[1], number[2], number[3]]))
        .collect()
}

pub fn samples(audio: &dyn AudioSource, start: u64, length: usize) -> Vec<f32> {
    let mut samples = vec![0.0; length];
    audio.read(start, &mut samples).unwrap();
    samples
}
