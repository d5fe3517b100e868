//! Our front end beside NeMo's, as it is exported with the models.

use dalston_engines::parakeet::features::NemoFeatures;
use ndarray::{Array2, Ix3};

use crate::fixture::{audio, models, runtime};

#[test]
fn features_equal_the_exported_front_end() {
    let path = models().join("parakeet-tdt-nano/nemo128.onnx");
    let mut reference = runtime()
        .session(&path, &dalston_engines::SessionOptions::default())
        .unwrap();
    let ours = NemoFeatures::new(128);
    for name in [
        "utterances/dev-00000.wav",
        "utterances/dev-00007.wav",
        "dialogues/dlg03.wav",
    ] {
        let samples = audio(name);
        let samples = &samples[..samples.len().min(20 * 16_000)];
        let n = samples.len();
        let waveforms = ort::value::Tensor::from_array(([1, n], samples.to_vec())).unwrap();
        let lengths = ort::value::Tensor::from_array(([1_usize], vec![n as i64])).unwrap();
        let outputs = reference
            .run(ort::inputs!["waveforms" => waveforms, "waveforms_lens" => lengths])
            .unwrap();
        let wanted = outputs[0]
            .try_extract_array::<f32>()
            .unwrap()
            .into_dimensionality::<Ix3>()
            .unwrap();
        let n_frames = NemoFeatures::n_frames(n as u64);
        let mut features = Array2::zeros((128, n_frames));
        ours.compute(&samples.to_vec(), 0, n as u64, features.view_mut())
            .unwrap();
        let differences = features
            .indexed_iter()
            .map(|((band, frame), value)| (value - wanted[[0, band, frame]]).abs());
        let largest = differences.fold(0.0, f32::max);
        assert!(largest < 1e-4, "{name}: {largest}");
    }
}
