//! Every stage against what the reference computes from the same audio.

use dalston_engines::diarize::Speakers;
use dalston_engines::diarize::classes::powerset;
use dalston_engines::diarize::clustering::SpeakerBounds;
use dalston_engines::diarize::tracks::{HeardTracks, hear};
use dalston_engines::{AudioSource, RunGuard};
use ndarray::Axis;

use crate::fixture::{
    dialogue, embedding, floats, model_dir, reference, runtime, samples, segmentation,
};

fn guard() -> RunGuard {
    runtime();
    RunGuard::new().unwrap()
}

fn heard(audio: &dyn AudioSource) -> HeardTracks {
    hear(&segmentation(), &embedding(), audio, &guard(), &|_| {}).unwrap()
}

fn assert_close(ours: &[f32], theirs: &[f32], tolerance: f32, what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let worst = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs());
    let worst = worst.fold(0.0, f32::max);
    assert!(worst < tolerance, "{what} is off by {worst}");
}

#[test]
fn segmentation_equals_the_golden_frames() {
    let golden = model_dir("pyannote-segmentation-nano").join("golden/dlg03_0-20s_b2.json");
    let golden: serde_json::Value =
        serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let segmentation = segmentation();
    let frames = segmentation
        .walk()
        .windows(&*dialogue("dlg03"), (0, 2), 160_000, &guard())
        .unwrap();
    let sets = powerset(3, 2);
    let expected: Vec<u8> = golden["argmax"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|window| window.as_array().unwrap())
        .map(|class| sets[class.as_u64().unwrap() as usize])
        .collect();
    assert_eq!(frames, expected);
}

#[test]
fn filter_bank_and_embedding_equal_the_golden() {
    let golden = |part: &str| {
        floats(&model_dir("wespeaker-nano").join(format!("golden/dlg03_0-5s.{part}.f32")))
    };
    let audio = samples(&*dialogue("dlg03"), 0, 80_000);
    let mut features = embedding().fbank().features(&audio).unwrap();
    assert_close(
        features.as_slice().unwrap(),
        &golden("fbank_raw"),
        1e-3,
        "the filter bank",
    );
    features -= &features.mean_axis(Axis(0)).unwrap();
    assert_close(
        features.as_slice().unwrap(),
        &golden("fbank_centered"),
        1e-3,
        "the centred filter bank",
    );
    let voice = embedding()
        .embed(features.view().insert_axis(Axis(0)), &guard())
        .unwrap();
    assert_close(
        voice.as_slice().unwrap(),
        &golden("embs"),
        1e-4,
        "the embedding",
    );
}

#[test]
fn classes_voices_clusters_and_counts_equal_the_reference() {
    for name in ["dlg03", "dlg06"] {
        let heard = heard(&*dialogue(name));
        let sets = powerset(3, 2);
        let classes = std::fs::read(reference(&format!("{name}.classes.u8"))).unwrap();
        let expected: Vec<u8> = classes.iter().map(|&class| sets[class as usize]).collect();
        assert_eq!(heard.frames, expected, "{name}");

        let voices = floats(&reference(&format!("{name}.embeddings.f32")));
        let n_tracks = segmentation().n_tracks();
        let spoken: Vec<usize> = (0..heard.n_windows() * n_tracks)
            .filter(|at| !voices[at * 256].is_nan())
            .collect();
        let ours: Vec<usize> = heard
            .tracks
            .iter()
            .map(|track| track.window as usize * n_tracks + track.track as usize)
            .collect();
        assert_eq!(ours, spoken, "{name}");
        for (at, voice) in spoken.iter().zip(heard.voices().outer_iter()) {
            let expected = &voices[at * 256..][..256];
            assert_close(voice.as_slice().unwrap(), expected, 1e-4, name);
        }

        let speakers = Speakers::find(&heard, SpeakerBounds::default(), &guard()).unwrap();
        let stages: serde_json::Value = serde_json::from_slice(
            &std::fs::read(reference(&format!("{name}.stages.json"))).unwrap(),
        )
        .unwrap();
        let expected: Vec<Option<usize>> = stages["clusters"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|window| window.as_array().unwrap())
            .map(|cluster| usize::try_from(cluster.as_i64().unwrap()).ok())
            .collect();
        assert_eq!(speakers.by_window(&heard, n_tracks), expected, "{name}");

        let timeline = speakers.timeline(&heard, n_tracks, true);
        let counts = std::fs::read(reference(&format!("{name}.count.u8"))).unwrap();
        assert_eq!(timeline.counts, counts, "{name}");
    }
}
