//! Where long audio is cut: speech packed into windows a model takes in one go, and a file into chunks that several workers
//! take. Pure functions over sample positions; the audio is only looked at through a callback that finds a quiet place.

use crate::audio_source::{AudioSource, SAMPLE_RATE};
use crate::error::Result;
use crate::vad::SpeechSpan;

/// Samples of a frame when looking for the quietest place: 20 ms.
const QUIET_FRAME: u64 = SAMPLE_RATE as u64 / 50;
/// Neighbouring frames averaged around a cut, so that a single quiet glottal pause does not win over a real one.
const QUIET_SPAN: usize = 5;

/// Speech that a model takes in one go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpeechWindow {
    /// Start of its first span, in samples.
    pub start: u64,
    /// End of its last span, in samples.
    pub end: u64,
    /// The speech inside, in order; between the spans is silence.
    pub spans: Vec<SpeechSpan>,
}

/// How speech is packed into windows, in samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowOptions {
    /// Longest window: 30 s for Whisper.
    pub limit: u64,
    /// Longest silence inside a window; a longer one starts a new window.
    pub max_gap: u64,
}

impl Default for WindowOptions {
    /// 30 s, with silences of up to 5 s inside.
    fn default() -> Self {
        Self {
            limit: 30 * u64::from(SAMPLE_RATE),
            max_gap: 5 * u64::from(SAMPLE_RATE),
        }
    }
}

/// Packs speech into windows of at most `options.limit` samples. Spans longer than that are first cut by `cut`, which is given
/// a range of samples and answers where inside it is best to cut; [`quietest_place`] is the usual answer.
///
/// `spans` are in order and do not overlap. Every sample of speech is in exactly one window, in order.
///
/// # Errors
/// Whatever `cut` returns.
pub fn pack_windows(
    spans: &[SpeechSpan],
    options: &WindowOptions,
    cut: &mut dyn FnMut(std::ops::Range<u64>) -> Result<u64>,
) -> Result<Vec<SpeechWindow>> {
    let mut windows: Vec<SpeechWindow> = Vec::new();
    for span in split_long(spans, options.limit, cut)? {
        match windows.last_mut() {
            Some(window)
                if span.end - window.start <= options.limit
                    && span.start - window.end <= options.max_gap =>
            {
                window.end = span.end;
                window.spans.push(span);
            }
            _ => windows.push(SpeechWindow {
                start: span.start,
                end: span.end,
                spans: vec![span],
            }),
        }
    }
    Ok(windows)
}

/// Cuts spans longer than `limit` into pieces that fit, none shorter than a quarter of what was left to cut.
fn split_long(
    spans: &[SpeechSpan],
    limit: u64,
    cut: &mut dyn FnMut(std::ops::Range<u64>) -> Result<u64>,
) -> Result<Vec<SpeechSpan>> {
    let limit = limit.max(2);
    let mut pieces = Vec::with_capacity(spans.len());
    for &SpeechSpan { mut start, end } in spans {
        while end - start > limit {
            // Two pieces where two are enough, and no sliver of half a word at the end.
            let left = end - start;
            let latest = start + limit.min(left - left / 4);
            let earliest = start + (limit / 2).max((left.min(2 * limit)).saturating_sub(limit));
            let at = cut(earliest..latest)?.clamp(earliest.max(start + 1), latest);
            pieces.push(SpeechSpan { start, end: at });
            start = at;
        }
        if start < end {
            pieces.push(SpeechSpan { start, end });
        }
    }
    Ok(pieces)
}

/// The middle of the quietest 100 ms of `range`, by power; the end of the range if it is shorter than that.
///
/// # Errors
/// [`crate::EngineError::Audio`] if the audio cannot be read.
pub fn quietest_place(audio: &dyn AudioSource, range: std::ops::Range<u64>) -> Result<u64> {
    let mut samples = vec![0.0; QUIET_FRAME as usize];
    let mut powers = Vec::new();
    let mut position = range.start;
    while position + QUIET_FRAME <= range.end {
        audio.read(position, &mut samples)?;
        powers.push(samples.iter().map(|sample| sample * sample).sum::<f32>());
        position += QUIET_FRAME;
    }
    let quietest = powers
        .windows(QUIET_SPAN)
        .map(|frames| frames.iter().sum::<f32>())
        .enumerate()
        .min_by(|a, b| a.1.total_cmp(&b.1));
    Ok(match quietest {
        Some((frame, _)) => {
            range.start + frame as u64 * QUIET_FRAME + QUIET_SPAN as u64 * QUIET_FRAME / 2
        }
        None => range.end,
    })
}

/// A stretch of a file that one task takes: speech and silence, `start..end` in samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// First sample.
    pub start: u64,
    /// One past the last sample.
    pub end: u64,
}

/// How a long file is cut into chunks, in samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkOptions {
    /// Length aimed at; half of it towards the end of the file.
    pub target: u64,
    /// Shortest chunk, unless the whole file is shorter.
    pub minimum: u64,
}

impl Default for ChunkOptions {
    /// 10 minutes, at least 2.
    fn default() -> Self {
        Self {
            target: 600 * u64::from(SAMPLE_RATE),
            minimum: 120 * u64::from(SAMPLE_RATE),
        }
    }
}

/// How many workers are to be done at about the same time: what is left of a file is cut so that each may have a share
/// of it.
const SHARES: u64 = 16;

/// Cuts a file of `n_samples` into chunks of about the target's length, shorter ones towards the end (guided
/// self-scheduling, Polychronopoulos and Kuck 1987), so that no worker is left with a long chunk while the others have
/// nothing to do. The chunks cover the file without gap or overlap. Cuts fall into silence: the longest one within a
/// quarter of a chunk from where it should end, else the nearest one up to twice its length, and only where speech
/// never pauses in between, into the speech.
pub fn plan_chunks(speech: &[SpeechSpan], n_samples: u64, options: &ChunkOptions) -> Vec<Chunk> {
    let target = options.target.max(1);
    let minimum = options.minimum.clamp(1, target);
    let shortest = (target / 2).max(minimum);
    let mut chunks = Vec::new();
    let mut start = 0;
    loop {
        let left = n_samples - start;
        let aim = (left / SHARES).clamp(shortest, target);
        let pieces = ((left + aim / 2) / aim).min(left / minimum);
        if pieces < 2 {
            break;
        }
        // Equal shares, so that no short rest is left behind.
        let share = left / pieces;
        let Some(end) = next_cut(speech, start, n_samples, share, minimum) else {
            break;
        };
        chunks.push(Chunk { start, end });
        start = end;
    }
    if start < n_samples {
        chunks.push(Chunk {
            start,
            end: n_samples,
        });
    }
    chunks
}

/// Where the chunk from `start` on should end; None if it is best not cut any more.
fn next_cut(
    speech: &[SpeechSpan],
    start: u64,
    n_samples: u64,
    target: u64,
    minimum: u64,
) -> Option<u64> {
    let ideal = start + target;
    let earliest = start + minimum;
    let latest = (start + 2 * target).min(n_samples.checked_sub(minimum)?);
    if latest < earliest {
        return None;
    }
    // The silences that reach into the range, each as (cut, length): long ones are cut near the ideal, short ones in the middle.
    let from = speech.partition_point(|span| span.end < earliest);
    let before = from.checked_sub(1).map_or(start, |index| speech[index].end);
    let ends = std::iter::once(before).chain(speech[from..].iter().map(|span| span.end));
    let starts = speech[from..]
        .iter()
        .map(|span| span.start)
        .chain([n_samples]);
    let silences: Vec<(u64, u64)> = ends
        .zip(starts)
        .take_while(|(silence, _)| *silence <= latest)
        .filter(|(silence, speech)| silence < speech)
        .map(|(silence, speech)| {
            let length = speech - silence;
            let margin = (length / 2).min(u64::from(SAMPLE_RATE));
            (ideal.clamp(silence + margin, speech - margin), length)
        })
        .filter(|(cut, _)| (earliest..=latest).contains(cut))
        .collect();
    let near = target / 4;
    let longest = silences
        .iter()
        .filter(|(cut, _)| cut.abs_diff(ideal) <= near)
        .max_by_key(|(cut, length)| (*length, std::cmp::Reverse(cut.abs_diff(ideal))));
    let nearest = silences.iter().min_by_key(|(cut, _)| cut.abs_diff(ideal));
    Some(
        longest
            .or(nearest)
            .map_or(ideal.min(latest), |(cut, _)| *cut),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    /// A small generator with a printed seed, so that a failure can be replayed.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % limit.max(1)
        }

        /// Speech in order without overlap, and the length of its file.
        fn speech(&mut self) -> (Vec<SpeechSpan>, u64) {
            let (count, longest_span) = (self.below(60), 1 + self.below(2_000_000));
            let longest_gap = 1 + self.below(400_000);
            let mut position = self.below(longest_gap);
            let mut spans = Vec::new();
            for _ in 0..count {
                let end = position + 1 + self.below(longest_span);
                spans.push(SpeechSpan {
                    start: position,
                    end,
                });
                position = end + self.below(longest_gap);
            }
            (spans, position + self.below(longest_gap) + 1)
        }
    }

    /// Adjacent spans joined, so that cuts inside speech do not show.
    fn joined(spans: impl IntoIterator<Item = SpeechSpan>) -> Vec<SpeechSpan> {
        let mut joined: Vec<SpeechSpan> = Vec::new();
        for span in spans {
            match joined.last_mut() {
                Some(last) if last.end == span.start => last.end = span.end,
                _ => joined.push(span),
            }
        }
        joined
    }

    #[test]
    fn every_sample_of_speech_is_in_exactly_one_window_in_order_and_within_the_limit() {
        for seed in 0..500 {
            let mut random = Random(seed);
            let (spans, _) = random.speech();
            let options = WindowOptions {
                limit: 1_000 + random.below(600_000),
                max_gap: random.below(300_000),
            };
            let mut picks = Random(seed + 1);
            let windows = pack_windows(&spans, &options, &mut |range| {
                // A careless callback must not break the promise either.
                Ok(range.start + picks.below(2 * (range.end - range.start) + 2))
            })
            .unwrap();
            let packed = windows
                .iter()
                .flat_map(|window| window.spans.iter().copied());
            assert_eq!(joined(packed), joined(spans), "seed {seed}");
            for pair in windows.windows(2) {
                assert!(pair[0].end <= pair[1].start, "seed {seed}");
            }
            for window in &windows {
                assert!(
                    window.end - window.start <= options.limit,
                    "seed {seed}: {window:?}"
                );
                assert_eq!(
                    (window.start, window.end),
                    (window.spans[0].start, window.spans.last().unwrap().end)
                );
                for pair in window.spans.windows(2) {
                    assert!(
                        pair[1].start - pair[0].end <= options.max_gap,
                        "seed {seed}"
                    );
                }
            }
        }
    }

    #[test]
    fn chunks_cover_the_file_once_are_long_enough_and_do_not_run_away() {
        for seed in 0..2_000 {
            let mut random = Random(seed);
            let (spans, n_samples) = random.speech();
            let target = 1 + random.below(3_000_000);
            let options = ChunkOptions {
                target,
                minimum: 1 + random.below(target / 2),
            };
            let chunks = plan_chunks(&spans, n_samples, &options);
            assert_eq!(chunks[0].start, 0, "seed {seed}");
            assert_eq!(chunks.last().unwrap().end, n_samples, "seed {seed}");
            for pair in chunks.windows(2) {
                assert_eq!(pair[0].end, pair[1].start, "seed {seed}");
            }
            for chunk in &chunks {
                let length = chunk.end - chunk.start;
                assert!(
                    length >= options.minimum || chunks.len() == 1,
                    "seed {seed}: {chunk:?} {options:?} {n_samples}"
                );
                assert!(
                    2 * length <= 5 * target + 2,
                    "seed {seed}: {chunk:?} {options:?} {n_samples}"
                );
            }
        }
    }

    #[test]
    fn cuts_fall_into_silence_wherever_there_is_one_near() {
        let second = u64::from(SAMPLE_RATE);
        // Eight seconds of speech, two of silence, over and over for an hour.
        let spans: Vec<SpeechSpan> = (0..360)
            .map(|turn| SpeechSpan {
                start: turn * 10 * second,
                end: (turn * 10 + 8) * second,
            })
            .collect();
        let chunks = plan_chunks(&spans, 3_600 * second, &ChunkOptions::default());
        assert_eq!(chunks.len(), 12);
        for chunk in &chunks[..11] {
            assert!(
                spans
                    .iter()
                    .all(|span| chunk.end <= span.start || span.end <= chunk.end),
                "{chunk:?}"
            );
            assert!((chunk.end - chunk.start).abs_diff(300 * second) <= 10 * second);
        }
    }

    #[test]
    fn chunks_of_three_hours_keep_up_to_sixteen_workers_busy_to_the_end() {
        let second = u64::from(SAMPLE_RATE);
        let options = ChunkOptions {
            target: 120 * second,
            minimum: 30 * second,
        };
        let n_samples = 3 * 3_600 * second;
        let spans: Vec<SpeechSpan> = (0..900)
            .map(|turn| SpeechSpan {
                start: turn * 12 * second,
                end: (turn * 12 + 11) * second,
            })
            .collect();
        let chunks = plan_chunks(&spans, n_samples, &options);
        assert!(chunks.len() <= 110, "{}", chunks.len());
        for workers in 1..=16 {
            // Whoever is free takes the next one.
            let mut busy_until = vec![0; workers];
            for chunk in &chunks {
                *busy_until.iter_mut().min().unwrap() += chunk.end - chunk.start;
            }
            let ideal = n_samples as f64 / workers as f64;
            let share = ideal / *busy_until.iter().max().unwrap() as f64;
            assert!(share > 0.92, "{workers} workers: {share}");
        }
    }

    #[test]
    fn a_silent_file_and_one_without_pauses_are_cut_too() {
        let second = u64::from(SAMPLE_RATE);
        let silent = plan_chunks(&[], 1_900 * second, &ChunkOptions::default());
        assert_eq!(silent.len(), 6);
        let pauseless = [SpeechSpan {
            start: 0,
            end: 1_900 * second,
        }];
        let chunks = plan_chunks(&pauseless, 1_900 * second, &ChunkOptions::default());
        assert_eq!(chunks[0].end, 1_900 * second / 6);
        assert_eq!(plan_chunks(&[], 0, &ChunkOptions::default()), []);
    }

    #[test]
    fn the_quietest_place_is_found_to_the_frame() {
        let mut audio = vec![0.5_f32; 160_000];
        audio[100_000..103_000].fill(0.0);
        let place = quietest_place(&audio, 16_000..150_000).unwrap();
        assert!((100_000..103_000).contains(&place), "{place}");
        assert_eq!(quietest_place(&audio, 10..20).unwrap(), 20);
    }
}
