//! Log-mel features against the reference extractor's.

use dalston_engines::mel::{LogMel, Stretch, normalize};
use ndarray::Array2;
use serde::Deserialize;

use crate::fixture::{audio, golden, model_dir};

#[derive(Deserialize)]
struct MelGolden {
    audio: String,
    file: String,
    shape: (usize, usize),
}

/// The body of a `NumPy` file of little-endian f32 in row order.
fn read_npy(name: &str, shape: (usize, usize)) -> Array2<f32> {
    let bytes = std::fs::read(model_dir().join("golden").join(name)).unwrap();
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let values = bytes[header..]
        .chunks_exact(4)
        .map(|raw| f32::from_le_bytes(raw.try_into().unwrap()));
    Array2::from_shape_vec(shape, values.collect()).unwrap()
}

#[test]
fn log_mel_equals_the_reference_within_1e_4() {
    let goldens: Vec<MelGolden> = golden("mel.json");
    assert_eq!(goldens.len(), 3);
    for case in goldens {
        let samples = audio(&case.audio);
        let mel = LogMel::new(case.shape.0, 400, 160);
        let stretch = Stretch {
            source: &samples,
            start: 0,
            n_samples: 480_000,
        };
        let mut ours = Array2::zeros(case.shape);
        let maximum = mel.maximum(&stretch, 0..3000, 2).unwrap();
        mel.log10_frames(&stretch, 0, ours.view_mut(), 2).unwrap();
        normalize(&mut ours.view_mut(), maximum);
        let reference = read_npy(&case.file, case.shape);
        let worst = ours
            .iter()
            .zip(&reference)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(worst <= 1e-4, "{}: largest difference {worst}", case.audio);
    }
}
