//! Clustering against scipy on real voices, and on more voices than fit a matrix of distances.

use dalston_engines::diarize::clustering::{SpeakerBounds, centroid_linkage, cluster, cut};
use dalston_engines::{Result, RunGuard};
use ndarray::{Array2, ArrayView2};
use serde::Deserialize;

use crate::fixture::{floats, reference, runtime};

/// `scipy.cluster.hierarchy.linkage(voices, "centroid")` of dlg06's voices, and `fcluster` of it at some distances.
#[derive(Deserialize)]
struct Golden {
    first: Vec<usize>,
    second: Vec<usize>,
    distance: Vec<f64>,
    cuts: std::collections::BTreeMap<String, Vec<usize>>,
}

fn guard() -> RunGuard {
    runtime();
    RunGuard::new().unwrap()
}

fn divide(
    voices: ArrayView2<'_, f32>,
    bounds: SpeakerBounds,
    run: &RunGuard,
) -> Result<Vec<usize>> {
    let rows: Vec<usize> = (0..voices.nrows()).collect();
    cluster(voices, &rows, bounds, run)
}

fn voices() -> Array2<f32> {
    let all = floats(&reference("dlg06.embeddings.f32"));
    let spoken: Vec<f32> = all.into_iter().filter(|value| !value.is_nan()).collect();
    Array2::from_shape_vec((spoken.len() / 256, 256), spoken).unwrap()
}

#[test]
fn the_tree_and_its_cuts_equal_scipys_inversions_included() {
    let golden = std::fs::read(reference("dlg06.linkage.json")).unwrap();
    let golden: Golden = serde_json::from_slice(&golden).unwrap();
    let voices = voices();
    let points = Array2::from_shape_fn(voices.dim(), |(row, column)| {
        let norm = voices.row(row).dot(&voices.row(row)).sqrt();
        f64::from(voices[[row, column]] / norm)
    });
    let n = points.nrows();
    let merges = centroid_linkage(points.view(), &vec![1.0; n], &guard(), |_, _| false).unwrap();
    assert_eq!(merges.len(), golden.distance.len());
    let inversions = merges
        .windows(2)
        .filter(|pair| pair[1].distance < pair[0].distance);
    assert_eq!(inversions.count(), 12);
    for (at, merge) in merges.iter().enumerate() {
        assert_eq!(
            (merge.first, merge.second),
            (golden.first[at], golden.second[at])
        );
        assert!((merge.distance - golden.distance[at]).abs() < 1e-6);
    }
    for (limit, expected) in &golden.cuts {
        let limit: f64 = limit.parse().unwrap();
        let clusters = cut(&merges, n, |step| merges[step].distance, limit);
        let numbered: Vec<usize> = clusters.iter().map(|cluster| cluster + 1).collect();
        assert_eq!(&numbered, expected, "cut at {limit}");
    }
}

/// Voices of some speakers who take turns: a direction each and noise, from a seed.
fn made_up_voices(n: usize, n_speakers: usize, speaker: impl Fn(usize) -> usize) -> Array2<f32> {
    let mut state = 7_u64;
    let mut noise = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    let directions = Array2::from_shape_simple_fn((n_speakers, 256), &mut noise);
    let mut voices = Array2::from_shape_simple_fn((n, 256), || 0.6 * noise());
    for (at, mut voice) in voices.outer_iter_mut().enumerate() {
        voice += &directions.row(speaker(at));
    }
    voices
}

/// Whether two lists of labels divide the rows alike.
fn same_partition(a: &[usize], b: &[usize]) -> bool {
    let mut forward = std::collections::HashMap::new();
    let mut backward = std::collections::HashMap::new();
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| {
            *forward.entry(a).or_insert(b) == b && *backward.entry(b).or_insert(a) == a
        })
}

#[test]
fn hours_of_voices_divide_as_a_few_minutes_do() {
    for n in [600, 12_000] {
        // The fourth speaks in the last tenth only.
        let speaker = |at: usize| if at > n * 9 / 10 { 3 } else { at / 37 % 3 };
        let voices = made_up_voices(n, 4, speaker);
        let expected: Vec<usize> = (0..n).map(speaker).collect();
        let found = divide(voices.view(), SpeakerBounds::default(), &guard()).unwrap();
        assert!(same_partition(&found, &expected), "{n} voices");
        let bounds = SpeakerBounds {
            exact: Some(2),
            ..SpeakerBounds::default()
        };
        let found = divide(voices.view(), bounds, &guard()).unwrap();
        assert_eq!(found.iter().max(), Some(&1), "{n} voices of two speakers");
    }
}

#[test]
fn a_few_stray_voices_found_no_speaker() {
    // Three of two hundred, less than a tenth and less than twelve.
    let speaker = |at: usize| if at % 70 == 69 { 2 } else { at / 50 % 2 };
    let voices = made_up_voices(200, 3, speaker);
    let found = divide(voices.view(), SpeakerBounds::default(), &guard()).unwrap();
    assert_eq!(found.iter().max(), Some(&1));
    let expected: Vec<usize> = (0..200).filter(|at| at % 70 != 69).map(speaker).collect();
    let steady: Vec<usize> = (0..200)
        .filter(|at| at % 70 != 69)
        .map(|at| found[at])
        .collect();
    assert!(same_partition(&steady, &expected));
}

#[test]
fn one_voice_is_one_speaker_and_none_is_none() {
    let one = made_up_voices(1, 1, |_| 0);
    assert_eq!(
        divide(one.view(), SpeakerBounds::default(), &guard()).unwrap(),
        [0]
    );
    let none = Array2::zeros((0, 256));
    assert!(
        divide(none.view(), SpeakerBounds::default(), &guard())
            .unwrap()
            .is_empty()
    );
}
