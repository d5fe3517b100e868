//! The bundled model, the files with known word times, and audio put together from them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use dalston_engines::{
    AlignRequest, AlignSegment, Aligner, Alignment, AudioSource, Control, Device, LoadOptions,
    Precision, Runtime, RuntimeOptions, SAMPLE_RATE, WavSource,
};
use serde::Deserialize;

pub fn model_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/wav2vec2-nano")
}

pub fn load(precision: Precision) -> Aligner {
    let runtime = Runtime::load(&RuntimeOptions {
        device: Device::Cpu,
        library: None,
    })
    .unwrap();
    let options = LoadOptions {
        precision,
        threads: 1,
        batch_size: 4,
    };
    Aligner::load(&runtime, &model_folder(), &options).unwrap()
}

pub fn float() -> &'static Aligner {
    static MODEL: OnceLock<Aligner> = OnceLock::new();
    MODEL.get_or_init(|| load(Precision::Float))
}

pub fn int8() -> &'static Aligner {
    static MODEL: OnceLock<Aligner> = OnceLock::new();
    MODEL.get_or_init(|| load(Precision::Int8))
}

/// A word as the synthesiser spoke it.
#[derive(Debug, Clone, Deserialize)]
pub struct SpokenWord {
    pub word: String,
    pub start: f64,
    pub end: f64,
}

/// A file with known word times.
#[derive(Debug, Clone, Deserialize)]
pub struct Spoken {
    pub path: String,
    pub text: String,
    pub words: Vec<SpokenWord>,
}

impl Spoken {
    pub fn samples(&self) -> Vec<f32> {
        let source = WavSource::open(&folder().join(&self.path)).unwrap();
        let mut samples = vec![0.0; usize::try_from(source.n_samples()).unwrap()];
        source.read(0, &mut samples).unwrap();
        samples
    }
}

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/audio/aligned")
}

pub fn spoken() -> Vec<Spoken> {
    let lines = std::fs::read_to_string(folder().join("aligned.jsonl")).unwrap();
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

pub fn seconds(samples: usize) -> f64 {
    samples as f64 / f64::from(SAMPLE_RATE)
}

pub fn segment(start: f64, end: f64, text: &str) -> AlignSegment {
    AlignSegment {
        start,
        end,
        text: text.to_owned(),
    }
}

pub fn request(audio: Arc<dyn AudioSource>, segments: Vec<AlignSegment>) -> AlignRequest {
    AlignRequest {
        audio,
        language: Some("en".to_owned()),
        segments,
        control: Control::default(),
        time_limit: None,
    }
}

/// Aligns one text to all of some audio.
pub fn align_all(model: &Aligner, samples: Vec<f32>, text: &str) -> Alignment {
    let end = seconds(samples.len());
    let segments = vec![segment(0.0, end, text)];
    model.align(request(Arc::new(samples), segments)).unwrap()
}

/// The files one after another, over and over; its length and content cost no memory.
pub struct Playlist {
    files: Vec<Vec<f32>>,
    round: usize,
    rounds: usize,
}

impl Playlist {
    pub fn new(files: Vec<Vec<f32>>, rounds: usize) -> Self {
        Self {
            round: files.iter().map(Vec::len).sum(),
            files,
            rounds,
        }
    }

    /// Where each file begins, in samples, and its number.
    pub fn starts(&self) -> Vec<(usize, usize)> {
        let mut starts = Vec::new();
        let mut at = 0;
        for _ in 0..self.rounds {
            for (index, file) in self.files.iter().enumerate() {
                starts.push((at, index));
                at += file.len();
            }
        }
        starts
    }
}

impl AudioSource for Playlist {
    fn n_samples(&self) -> u64 {
        (self.round * self.rounds) as u64
    }

    fn read(&self, start: u64, out: &mut [f32]) -> dalston_engines::Result<()> {
        out.fill(0.0);
        let start = usize::try_from(start).unwrap();
        let mut at = start;
        let end = (start + out.len()).min(self.round * self.rounds);
        while at < end {
            let mut inside = at % self.round;
            let file = self
                .files
                .iter()
                .find(|file| {
                    let here = inside < file.len();
                    if !here {
                        inside -= file.len();
                    }
                    here
                })
                .unwrap();
            let count = (file.len() - inside).min(end - at);
            out[at - start..][..count].copy_from_slice(&file[inside..inside + count]);
            at += count;
        }
        Ok(())
    }
}

pub fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for value in values {
        sum += value;
        count += 1.0;
    }
    sum / count
}
