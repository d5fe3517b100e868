//! Long files: times keep to one grid, whatever windows and steps they were found in.

use std::sync::Arc;

use crate::fixture::{Playlist, float, mean, request, seconds, segment, spoken};
use dalston_engines::{AlignSegment, AudioSource};

/// Signed errors of starts against the synthesiser's times, in order of time.
fn start_errors(
    playlist: Playlist,
    segments_of: impl Fn(&Playlist) -> Vec<AlignSegment>,
) -> Vec<f64> {
    let files = spoken();
    let truths: Vec<f64> = playlist
        .starts()
        .iter()
        .flat_map(|&(at, file)| {
            files[file]
                .words
                .iter()
                .map(move |word| seconds(at) + word.start)
        })
        .collect();
    let segments = segments_of(&playlist);
    let answer = float()
        .align(request(Arc::new(playlist), segments))
        .unwrap();
    assert_eq!(answer.unaligned, 0);
    let words: Vec<_> = answer
        .segments
        .iter()
        .flat_map(|segment| &segment.words)
        .collect();
    assert_eq!(words.len(), truths.len());
    assert!(words.windows(2).all(|pair| pair[0].start < pair[1].start));
    words
        .iter()
        .zip(truths)
        .map(|(word, truth)| word.start - truth)
        .collect()
}

fn one_segment_a_file(playlist: &Playlist) -> Vec<AlignSegment> {
    let files = spoken();
    let starts = playlist.starts();
    let ends = starts
        .iter()
        .skip(1)
        .map(|&(at, _)| at)
        .chain([usize::try_from(playlist.n_samples()).unwrap()]);
    starts
        .iter()
        .zip(ends)
        .map(|(&(at, file), end)| segment(seconds(at), seconds(end), &files[file].text))
        .collect()
}

fn files() -> Vec<Vec<f32>> {
    spoken().iter().map(|file| file.samples()).collect()
}

#[test]
fn ten_minutes_end_as_exactly_as_they_begin() {
    let round: f64 = files().iter().map(|file| seconds(file.len())).sum();
    let rounds = (600.0 / round).ceil() as usize;
    let errors = start_errors(Playlist::new(files(), rounds), one_segment_a_file);
    let mean_of = |errors: &[f64]| mean(errors.iter().copied());
    let each = errors.len() / rounds;
    let (begin, end) = (
        mean_of(&errors[..each]),
        mean_of(&errors[errors.len() - each..]),
    );
    let size = mean(errors.iter().map(|error| error.abs()));
    println!("mean start error: first round {begin:.4} s, last round {end:.4} s, size {size:.4} s");
    assert!((begin - end).abs() < 0.01, "{begin} {end}");
    assert!(size < 0.16, "{size}");
}

#[test]
fn one_segment_of_two_minutes_is_walked_through_in_steps() {
    let files_in_two_minutes = 52;
    let all = files();
    let some: Vec<Vec<f32>> = all
        .iter()
        .cycle()
        .take(files_in_two_minutes)
        .cloned()
        .collect();
    let texts = spoken();
    let playlist = Playlist::new(some.clone(), 1);
    let end = seconds(usize::try_from(playlist.n_samples()).unwrap());
    let text: Vec<&str> = (0..some.len())
        .map(|i| texts[i % all.len()].text.as_str())
        .collect();
    let answer = float()
        .align(request(
            Arc::new(playlist),
            vec![segment(0.0, end, &text.join(" "))],
        ))
        .unwrap();
    assert_eq!(answer.unaligned, 0);
    let playlist = Playlist::new(some, 1);
    let truths: Vec<f64> = playlist
        .starts()
        .iter()
        .flat_map(|&(at, file)| {
            let words = texts[file % all.len()].words.clone();
            words.into_iter().map(move |word| seconds(at) + word.start)
        })
        .collect();
    let words = &answer.segments[0].words;
    assert_eq!(words.len(), truths.len());
    let size = mean(
        words
            .iter()
            .zip(truths)
            .map(|(word, truth)| (word.start - truth).abs()),
    );
    println!("{end:.0} s in one segment: mean start error {size:.3} s");
    assert!(end > 115.0 && size < 0.2, "{size}");
}

#[test]
fn segments_whose_bounds_are_off_share_their_words_rightly() {
    let off = |playlist: &Playlist| {
        let mut segments = one_segment_a_file(playlist);
        for (i, segment) in segments.iter_mut().enumerate() {
            segment.start = (segment.start + [-0.3, 0.3, 0.0][i % 3]).max(0.0);
            segment.end += [0.3, 0.0, -0.3][i % 3];
        }
        segments
    };
    let right = start_errors(Playlist::new(files(), 1), one_segment_a_file);
    let wrong = start_errors(Playlist::new(files(), 1), off);
    let differences = right
        .iter()
        .zip(wrong)
        .map(|(right, wrong)| (right - wrong).abs());
    let worst = differences.clone().fold(0.0, f64::max);
    let mean = mean(differences);
    println!("bounds off by 0.3 s move words by {mean:.4} s, at most {worst:.2} s");
    assert!(mean < 0.01, "{mean}");
}

#[cfg(feature = "long-tests")]
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let kib: u64 = line.split_whitespace().next().unwrap().parse().unwrap();
    kib / 1024
}

#[cfg(feature = "long-tests")]
#[test]
fn three_hours_end_as_exactly_as_they_begin_in_the_memory_of_minutes() {
    let round: f64 = files().iter().map(|file| seconds(file.len())).sum();
    let run = |length: f64| {
        let rounds = (length / round).ceil() as usize;
        let began = std::time::Instant::now();
        let errors = start_errors(Playlist::new(files(), rounds), one_segment_a_file);
        let speed = length / began.elapsed().as_secs_f64();
        let each = errors.len() / rounds;
        let begin = mean(errors[..each].iter().copied());
        let end = mean(errors[errors.len() - each..].iter().copied());
        println!(
            "{length} s: start error {begin:.4} s, {end:.4} s at the end; {speed:.0} times real time"
        );
        assert!((begin - end).abs() < 0.01, "{begin} {end}");
        resident_mib()
    };
    let minutes = run(600.0);
    let hours = run(10_800.0);
    println!("{minutes} MiB after ten minutes, {hours} MiB after three hours");
    // The answer itself is some forty thousand words.
    assert!(hours < minutes + 40, "{minutes} MiB, then {hours} MiB");
}
