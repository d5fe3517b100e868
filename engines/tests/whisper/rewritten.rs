//! The rewritten graphs: the same goldens, the same cross-attentions, and what happens when they cannot be written.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use dalston_engines::graph::{Arithmetic, GraphError, Shape, optimize_whisper};
use dalston_engines::model_folder::{ModelFolder, Precision};
use dalston_engines::whisper::backend::{Backend, StartLogits};
use dalston_engines::whisper::model::PublishedModel;
use dalston_engines::whisper::optimized::OptimizedModel;
use dalston_engines::whisper::pipeline::{PipelineOptions, Whisper};
use dalston_engines::{Device, RunGuard, TranscribeOptions, TranscriberHandle};
use ndarray::Array3;
use tempfile::TempDir;

use crate::fixture::{
    audio, golden, golden_options, model_dir, runtime, transcribe, transcribe_all,
};
use crate::utterances::Utterances;
use crate::word_errors::word_error_rate;
use crate::{longform, utterances};

/// `<|startoftranscript|><|en|><|transcribe|>`.
const PROMPT: [u32; 3] = [849, 850, 950];

/// A folder of its own for the rewritten graphs, over links to the bundled model's files.
fn linked_model() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(model_dir()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "optimized" {
            let link = folder.path().join(entry.file_name());
            std::os::unix::fs::symlink(entry.path(), link).unwrap();
        }
    }
    folder
}

fn rewritten(precision: Precision) -> (TempDir, OptimizedModel, ModelFolder) {
    let place = linked_model();
    let folder = ModelFolder::read(place.path(), precision, Device::Cpu).unwrap();
    let model = OptimizedModel::load(&runtime(), &folder, 1).unwrap();
    (place, model, folder)
}

/// The model transcribes from memory: its folder may go, unless words are to be timed.
fn transcriber(precision: Precision) -> TranscriberHandle {
    let (_place, model, folder) = rewritten(precision);
    spawn(model, folder)
}

fn spawn(model: OptimizedModel, folder: ModelFolder) -> TranscriberHandle {
    let options = PipelineOptions {
        threads: 1,
        batch_size: 8,
    };
    TranscriberHandle::spawn("rewritten", Whisper::new(model, folder, options).unwrap()).unwrap()
}

fn float_transcriber() -> &'static TranscriberHandle {
    static MODEL: OnceLock<TranscriberHandle> = OnceLock::new();
    MODEL.get_or_init(|| transcriber(Precision::Float))
}

#[test]
fn rewritten_float_graphs_equal_the_reference_on_every_utterance() {
    utterances::check(float_transcriber(), true);
    utterances::check(float_transcriber(), false);
}

#[test]
fn rewritten_float_graphs_equal_the_reference_on_long_files() {
    longform::check(float_transcriber(), false);
    longform::check(float_transcriber(), true);
}

#[test]
fn rewritten_int8_graphs_make_few_word_errors() {
    let goldens: Utterances = golden("utterances.json");
    let files = goldens
        .utterances
        .iter()
        .map(|case| audio(&case.audio))
        .collect();
    let references: Vec<String> = goldens
        .utterances
        .iter()
        .map(|case| case.reference.clone())
        .collect();
    let answers = transcribe_all(&transcriber(Precision::Int8), files, &golden_options());
    let texts: Vec<String> = answers.into_iter().map(|answer| answer.text).collect();
    let rate = word_error_rate(&references, &texts);
    println!("word error rate in 8 bits: {:.2} %", 100.0 * rate);
    // The float graphs make 48 errors in 1,394 words, 3.44 %; one utterance on the edge is worth five or six more.
    assert!(rate <= 0.041, "{rate}");
}

#[test]
fn what_int8_graphs_give_a_window_does_not_depend_on_the_others_of_its_batch() {
    let (_place, model, folder) = rewritten(Precision::Int8);
    let model = spawn(model, folder);
    let files: Vec<Vec<f32>> = (1..16)
        .map(|n| audio(&format!("utterances/dev-{n:05}.wav")))
        .collect();
    let options = TranscribeOptions {
        word_timestamps: true,
        ..golden_options()
    };
    let together = transcribe_all(&model, files.clone(), &options);
    for (file, together) in files.into_iter().zip(&together) {
        let alone = transcribe(&model, file, options.clone());
        assert_eq!(alone, *together, "probabilities and times included");
    }
}

#[test]
fn beams_survive_rearranging() {
    let options = TranscribeOptions {
        beam_size: 5,
        ..golden_options()
    };
    let files = vec![
        audio("utterances/dev-00001.wav"),
        audio("utterances/dev-00005.wav"),
    ];
    let ours = transcribe_all(float_transcriber(), files.clone(), &options);
    let theirs = transcribe_all(crate::fixture::float_model(), files, &options);
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours.text, theirs.text);
    }
}

/// Repeatable features that are no constant.
fn made_up_window() -> Array3<f32> {
    Array3::from_shape_fn((1, 80, 3000), |(_, band, frame)| {
        (frame as f32 * 0.02 * (1.0 + band as f32 * 0.1)).sin() * 0.5
    })
}

#[test]
fn cross_attentions_equal_the_published_ones() {
    let (_place, mut ours, folder) = rewritten(Precision::Float);
    let mut published = PublishedModel::load(&runtime(), &folder, 1).unwrap();
    let run = RunGuard::new().unwrap();
    let heads = folder.alignment_heads.clone().unwrap();
    let sequences = [[&PROMPT[..], &[955, 10, 20, 30, 848]].concat()];
    let mel = made_up_window();
    let encoded = ours.encode(mel.view(), &run).unwrap();
    let ours = ours
        .attend(&encoded, &[0], &sequences, &heads, &run)
        .unwrap();
    let encoded = published.encode(mel.view(), &run).unwrap();
    let theirs = published
        .attend(&encoded, &[0], &sequences, &heads, &run)
        .unwrap();
    assert_eq!(ours[0].dim(), theirs[0].dim());
    for (a, b) in ours[0].iter().zip(&theirs[0]) {
        assert!((a - b).abs() < 1e-4, "{a} instead of {b}");
    }
}

#[test]
fn a_long_sequence_outgrows_its_first_cache() {
    let (_place, mut ours, folder) = rewritten(Precision::Float);
    let mut published = PublishedModel::load(&runtime(), &folder, 1).unwrap();
    let run = RunGuard::new().unwrap();
    let mel = made_up_window();
    let last = |model: &mut dyn FnMut(u32) -> Vec<f32>| {
        (0..200).map(|token| model(token % 800)).last().unwrap()
    };
    let mut logits = StartLogits::default();
    let encoded = ours.encode(mel.view(), &run).unwrap();
    let mut state = ours
        .start(&encoded, &[0], &[&PROMPT], 0, &mut logits, &run)
        .unwrap();
    let mut row = Vec::new();
    let a = last(&mut |token| {
        ours.step(&mut state, &[token], &mut row, &run).unwrap();
        row.clone()
    });
    let encoded = published.encode(mel.view(), &run).unwrap();
    let mut state = published
        .start(&encoded, &[0], &[&PROMPT], 0, &mut logits, &run)
        .unwrap();
    let b = last(&mut |token| {
        published
            .step(&mut state, &[token], &mut row, &run)
            .unwrap();
        row.clone()
    });
    for (a, b) in a.iter().zip(&b) {
        assert!((a - b).abs() < 2e-3, "{a} instead of {b}");
    }
}

fn nano_shape() -> Shape {
    Shape {
        n_mels: 80,
        n_ctx: 1500,
        width: 128,
        encoder_heads: 4,
        decoder_heads: 4,
        n_text_ctx: 448,
        n_vocab: 2456,
    }
}

fn optimize(encoder: &Path, decoder: &Path, out: &Path) -> Result<bool, GraphError> {
    let written = optimize_whisper(encoder, decoder, &nano_shape(), Arithmetic::Int8, out)?;
    Ok(written.stored.is_new)
}

#[test]
fn many_callers_at_once_share_one_result() {
    let out = tempfile::tempdir().unwrap();
    let graphs = model_dir().join("onnx");
    let (encoder, decoder) = (
        graphs.join("encoder_model.onnx"),
        graphs.join("decoder_model_merged.onnx"),
    );
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| optimize(&encoder, &decoder, out.path()).unwrap());
        }
    });
    assert!(!optimize(&encoder, &decoder, out.path()).unwrap());
    let left: Vec<_> = fs::read_dir(out.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 1, "temporary folders are left: {left:?}");
}

#[test]
fn changed_sources_are_written_anew() {
    let out = tempfile::tempdir().unwrap();
    let graphs = model_dir().join("onnx");
    let decoder = out.path().join("decoder.onnx");
    fs::copy(graphs.join("decoder_model.onnx"), &decoder).unwrap();
    let encoder = graphs.join("encoder_model.onnx");
    let target = out.path().join("optimized");
    assert!(optimize(&encoder, &decoder, &target).unwrap());
    assert!(!optimize(&encoder, &decoder, &target).unwrap());
    fs::copy(graphs.join("decoder_model_merged.onnx"), &decoder).unwrap();
    assert!(optimize(&encoder, &decoder, &target).unwrap());
}

#[test]
fn a_graph_that_is_not_whisper_is_left_alone() {
    let out = tempfile::tempdir().unwrap();
    let encoder = model_dir().join("onnx/encoder_model.onnx");
    let error = optimize(&encoder, &encoder, out.path()).unwrap_err();
    assert!(matches!(error, GraphError::NotRecognised(_)), "{error}");
    let broken = out.path().join("broken.onnx");
    fs::write(&broken, b"this is no protobuf").unwrap();
    assert!(matches!(
        optimize(&broken, &encoder, out.path()).unwrap_err(),
        GraphError::Invalid(_)
    ));
    let target = out.path().join("int8");
    assert!(!target.exists());
}
