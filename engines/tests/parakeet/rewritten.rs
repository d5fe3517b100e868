//! The rewritten encoder: what a window gives depends on that window alone, to the bit, and graphs that are not known
//! are left alone.

use std::sync::Arc;

use dalston_engines::graph::fastconformer::optimize_encoder;
use dalston_engines::graph::{Arithmetic, GraphError};
use dalston_engines::parakeet::encoder::Encoder;
use dalston_engines::parakeet::features::NemoFeatures;
use dalston_engines::parakeet::folder::ParakeetFolder;
use dalston_engines::{
    AudioSource, Device, LongForm, Precision, RunGuard, SpeechRegion, TranscribeOptions,
    TranscribeRequest,
};
use ndarray::{Array2, Array3, Axis, s};

use crate::fixture::{audio, load, load_in_batches, models, runtime, with_words};
use crate::longform::Concatenated;

const FOLDERS: [&str; 2] = ["parakeet-tdt-nano", "parakeet-ctc-nano"];
const PRECISIONS: [Precision; 2] = [Precision::Float, Precision::Int8];

fn every_model() -> impl Iterator<Item = (&'static str, Precision)> {
    FOLDERS
        .into_iter()
        .flat_map(|folder| PRECISIONS.map(|precision| (folder, precision)))
}

fn encoder(folder: &str, precision: Precision, threads: usize) -> Encoder {
    let folder = ParakeetFolder::read(&models().join(folder), precision, Device::Cpu).unwrap();
    let encoder = Encoder::load(&runtime(), &folder, threads).unwrap();
    assert!(
        matches!(encoder, Encoder::Rewritten(_)),
        "{} was not recognised",
        folder.path.display()
    );
    encoder
}

/// Features of windows of very different lengths, two frames long and half a minute.
fn windows() -> Vec<Array2<f32>> {
    let dialogue = audio("dialogues/dlg03.wav");
    let stretches = [
        audio("utterances/dev-00001.wav"),
        dialogue[..30 * 16_000].to_vec(),
        audio("utterances/dev-00005.wav"),
        dialogue[100_000..100_330].to_vec(),
        dialogue[200_000..231_111].to_vec(),
    ];
    let features = NemoFeatures::new(128);
    stretches
        .into_iter()
        .map(|samples| {
            let n = samples.len() as u64;
            let mut out = Array2::zeros((128, NemoFeatures::n_frames(n)));
            features.compute(&samples, 0, n, out.view_mut()).unwrap();
            out
        })
        .collect()
}

/// States of some windows in one call, padded to the longest with what must not count.
fn together(encoder: &mut Encoder, windows: &[&Array2<f32>]) -> Vec<Array2<f32>> {
    let lengths: Vec<usize> = windows.iter().map(|window| window.ncols()).collect();
    let longest = lengths.iter().max().unwrap() + 13;
    let mut features = Array3::from_elem((windows.len(), 128, longest), 9.0);
    for (window, mut features) in windows.iter().zip(features.axis_iter_mut(Axis(0))) {
        features.slice_mut(s![.., ..window.ncols()]).assign(window);
    }
    let run = RunGuard::new().unwrap();
    encoder.encode(features.view(), &lengths, &run).unwrap()
}

#[test]
fn states_do_not_depend_on_the_other_windows_nor_on_the_number_of_threads() {
    let windows = windows();
    for (folder, precision) in every_model() {
        let mut one_thread = encoder(folder, precision, 1);
        let mut two_threads = encoder(folder, precision, 2);
        let alone: Vec<Array2<f32>> = windows
            .iter()
            .map(|window| together(&mut one_thread, &[window]).remove(0))
            .collect();
        let frames: Vec<usize> = alone.iter().map(|states| states.nrows()).collect();
        let wanted: Vec<usize> = windows
            .iter()
            .map(|window| window.ncols().div_ceil(8))
            .collect();
        assert_eq!(frames, wanted);
        for order in [[0, 1, 2, 3, 4], [4, 3, 1, 0, 2], [3, 3, 2, 4, 1]] {
            let batch: Vec<&Array2<f32>> = order.iter().map(|&at| &windows[at]).collect();
            for encoder in [&mut one_thread, &mut two_threads] {
                for (states, at) in together(encoder, &batch).iter().zip(order) {
                    assert!(*states == alone[at], "{folder} {precision:?}: window {at}");
                }
            }
        }
    }
}

#[test]
fn a_file_says_the_same_at_the_same_times_in_batches_of_any_size() {
    let audio = Arc::new(Concatenated::new(1.0));
    for (folder, precision) in every_model() {
        let transcripts = [1, 3, 8].map(|batch_size| {
            let model = load_in_batches(&models().join(folder), precision, 30.0, batch_size);
            let options = TranscribeOptions {
                long_form: LongForm::Batched(audio.regions()),
                ..with_words()
            };
            let source = Arc::clone(&audio) as Arc<dyn AudioSource>;
            model
                .transcribe(TranscribeRequest::new(source, options))
                .unwrap()
                .segments
        });
        assert!(transcripts[0].len() > 10);
        for transcript in &transcripts[1..] {
            assert_eq!(*transcript, transcripts[0], "{folder} {precision:?}");
        }
    }
}

#[test]
fn a_file_in_parts_says_what_it_says_whole() {
    let audio = Arc::new(Concatenated::new(1.0));
    for (folder, precision) in every_model() {
        let model = load(&models().join(folder), precision, 30.0);
        let heard = |part: Option<SpeechRegion>| {
            let options = TranscribeOptions {
                long_form: LongForm::Batched(audio.regions()),
                part,
                ..with_words()
            };
            let source = Arc::clone(&audio) as Arc<dyn AudioSource>;
            let request = TranscribeRequest::new(source, options);
            let segments = model.transcribe(request).unwrap().segments;
            let words: Vec<_> = segments
                .iter()
                .flat_map(|segment| segment.words.clone())
                .collect();
            let logprobs = segments
                .into_iter()
                .flat_map(|segment| segment.token_logprobs);
            (words, logprobs.collect::<Vec<f32>>())
        };
        let whole = heard(None);
        let mut joined = (Vec::new(), Vec::new());
        for (start, end) in [(0.0, 17.0), (17.0, 44.0), (44.0, 100.0)] {
            let (words, logprobs) = heard(Some(SpeechRegion { start, end }));
            assert!(!words.is_empty());
            joined.0.extend(words);
            joined.1.extend(logprobs);
        }
        assert_eq!(joined, whole, "{folder} {precision:?}");
    }
}

#[test]
fn a_graph_that_is_not_known_is_left_alone() {
    let place = tempfile::tempdir().unwrap();
    for graph in [
        "whisper-nano/onnx/encoder_model.onnx",
        "wav2vec2-nano/onnx/model.onnx",
        "parakeet-tdt-nano/decoder_joint-model.onnx",
    ] {
        let error =
            optimize_encoder(&models().join(graph), Arithmetic::Float, place.path()).unwrap_err();
        assert!(
            matches!(error, GraphError::NotRecognised(_)),
            "{graph}: {error}"
        );
    }
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
}
