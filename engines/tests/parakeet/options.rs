//! What the model cannot do is refused or told, and folders in every layout load.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dalston_engines::registry::engine_of;
use dalston_engines::{Device, EngineError, Precision, Task, TranscribeOptions, TranscribeRequest};

use crate::fixture::{audio, load, models, tdt, tokens, transcribe};

#[test]
fn translation_and_other_languages_are_refused_with_the_remedy() {
    let refused = |options: TranscribeOptions| {
        let request = TranscribeRequest::new(Arc::new(vec![0.0_f32; 16_000]), options);
        match tdt().transcribe(request).unwrap_err() {
            EngineError::InvalidRequest(message) => message,
            other => panic!("{other}"),
        }
    };
    let translation = refused(TranscribeOptions {
        task: Task::Translate,
        ..TranscribeOptions::default()
    });
    assert!(translation.contains("Whisper"), "{translation}");
    let german = refused(TranscribeOptions {
        language: Some("de".to_owned()),
        ..TranscribeOptions::default()
    });
    assert!(
        german.contains("\"de\"") && german.contains("en"),
        "{german}"
    );
}

#[test]
fn a_prompt_is_left_out_with_a_warning() {
    let options = TranscribeOptions {
        prompt: Some("Names: Kevin".to_owned()),
        ..TranscribeOptions::default()
    };
    let answer = transcribe(tdt(), audio("utterances/dev-00000.wav"), options);
    assert_eq!(answer.text, "We will finish in thirty four minutes.");
    assert_eq!(answer.language, "en");
    assert!(
        answer.warnings[0].contains("vocabulary"),
        "{:?}",
        answer.warnings
    );
    assert!(answer.segments[0].words.is_empty());
    assert!((-0.2..0.0).contains(&answer.segments[0].avg_logprob));
}

/// A folder of links, gone when it is dropped.
struct Layout(tempfile::TempDir);

impl Layout {
    fn new(links: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, target) in links {
            symlink(models().join(target), folder.path().join(name)).unwrap();
        }
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

#[test]
fn a_plain_transducer_loads_from_both_layouts_and_says_the_same() {
    let encoder = "parakeet-tdt-nano/encoder-model.onnx";
    let onnx_asr = Layout::new(&[
        ("encoder-model.onnx", encoder),
        (
            "decoder_joint-model.onnx",
            "parakeet-streaming-nano/decoder_joint.onnx",
        ),
        ("vocab.txt", "parakeet-streaming-nano/tokens.txt"),
        ("config.json", "parakeet-tdt-nano/config.json"),
    ]);
    let sherpa = Layout::new(&[
        ("encoder.onnx", encoder),
        ("decoder.onnx", "parakeet-streaming-nano/decoder.onnx"),
        ("joiner.onnx", "parakeet-streaming-nano/joiner.onnx"),
        ("tokens.txt", "parakeet-streaming-nano/tokens.txt"),
    ]);
    let heard = [&onnx_asr, &sherpa].map(|layout| {
        let engine = engine_of(layout.path()).unwrap();
        assert_eq!(engine.id, "parakeet");
        let description = (engine.describe)(layout.path(), Precision::Auto, Device::Cpu).unwrap();
        assert_eq!(description.alignment_method, Some("rnnt"));
        assert_eq!(description.precision, Precision::Float);
        let model = load(layout.path(), Precision::Auto, 30.0);
        // An encoder trained for another head: what it says makes no sense, but it is said twice.
        let answer = transcribe(
            &model,
            audio("utterances/dev-00001.wav"),
            TranscribeOptions::default(),
        );
        (tokens(&answer), answer.text)
    });
    assert!(!heard[0].0.is_empty());
    assert_eq!(heard[0], heard[1]);
}

#[test]
fn folders_say_what_they_hold() {
    let describe = |folder: PathBuf| {
        let engine = engine_of(&folder).unwrap();
        assert_eq!(engine.id, "parakeet");
        (engine.describe)(&folder, Precision::Auto, Device::Cpu).unwrap()
    };
    let tdt = describe(models().join("parakeet-tdt-nano"));
    assert_eq!(
        (tdt.alignment_method, tdt.precision),
        (Some("tdt"), Precision::Int8)
    );
    assert_eq!(
        (tdt.languages.as_slice(), tdt.vocabulary),
        (&["en".to_owned()][..], "phrase_boosting")
    );
    assert!(tdt.native_words && !tdt.translates && !tdt.component);
    assert!((5_000_000..6_000_000).contains(&tdt.weight_bytes));
    let ctc = describe(models().join("parakeet-ctc-nano"));
    assert_eq!(ctc.alignment_method, Some("ctc"));
    // A streaming export has the same files and cannot run here.
    assert!(engine_of(&models().join("parakeet-streaming-nano")).is_err());
}
