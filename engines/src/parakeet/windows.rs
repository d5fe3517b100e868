//! Cuts audio of any length into windows and joins what was heard in them.
//!
//! The encoder attends to all of a window: its memory grows with the square of the length, and models are trained on
//! utterances. Speech regions become windows of their own, joined over short gaps; audio without regions, and speech
//! longer than a window, is cut where it is quietest, and windows reach over such a cut on both sides. There the words
//! of both are matched, so that none is lost or doubled at a seam.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::words::TimedWord;
use crate::audio_source::{AudioSource, SAMPLE_RATE};
use crate::chunking::{WindowOptions, pack_windows, quietest_place};
use crate::error::Result;
use crate::transcription::{LongForm, SpeechRegion};
use crate::vad::SpeechSpan;

const RATE: f64 = SAMPLE_RATE as f64;
/// Longest stretch between two cuts, seconds, unless told otherwise: enough context for any sentence, and attention
/// over it is still cheap.
pub const LONGEST: f64 = 30.0;
/// Longest silence inside a window, seconds: neighbours give context, silence costs time.
const LONGEST_GAP: f64 = 0.6;
/// How far windows reach over a cut on both sides, seconds: a few words for matching, and context for the first.
const REACH: f64 = 2.0;
/// Windows are reordered by length among this many batches, so that those of a batch are about equally long.
const BATCHES_SORTED: usize = 4;
/// How far apart the two times of one word may be, seconds.
const SAME_WORD: f64 = 0.4;

/// A window to decode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    /// Its place among the windows of its audio.
    pub index: usize,
    /// Samples to encode.
    pub samples: Range<u64>,
    /// Samples it answers for; words outside are its neighbours'.
    pub core: Range<u64>,
}

impl Window {
    /// Its audio in seconds.
    pub(crate) fn seconds(&self) -> Range<f64> {
        self.samples.start as f64 / RATE..self.samples.end as f64 / RATE
    }

    /// The seconds it answers for.
    fn core_seconds(&self) -> f64 {
        (self.core.end - self.core.start) as f64 / RATE
    }
}

/// The way through one audio.
pub(crate) struct Walk {
    pub audio: Arc<dyn AudioSource>,
    waiting: VecDeque<Window>,
    /// Where the next window of audio without speech regions begins; `None` when all are planned.
    planned_to: Option<u64>,
    /// Longest stretch between two cuts, samples.
    longest: u64,
    n_planned: usize,
    in_flight: usize,
    /// Seconds answered for: so far, and in all.
    done_s: f64,
    total_s: f64,
    /// What was heard in windows whose turn has not come: some before them are still out.
    heard: BTreeMap<usize, Heard>,
    /// Index of the first window planned here; those before belong to another part of the file.
    first: usize,
    /// The last window whose words were joined.
    joined: Option<Window>,
    /// Words joined and not yet taken.
    words: Vec<TimedWord>,
}

/// What a window heard.
struct Heard {
    window: Window,
    words: Vec<TimedWord>,
}

impl Walk {
    /// Plans windows of at most `longest_s` seconds (and what they reach over cuts) for batches of `batch_size`.
    ///
    /// # Errors
    /// [`crate::EngineError::Audio`] when the audio cannot be read.
    pub(crate) fn new(
        audio: Arc<dyn AudioSource>,
        long_form: &LongForm,
        part: Option<SpeechRegion>,
        batch_size: usize,
        longest_s: f64,
    ) -> Result<Self> {
        let mut walk = Self {
            waiting: VecDeque::new(),
            planned_to: None,
            longest: samples(longest_s).max(samples(1.0)),
            n_planned: 0,
            in_flight: 0,
            done_s: 0.0,
            total_s: audio.duration(),
            heard: BTreeMap::new(),
            first: 0,
            joined: None,
            words: Vec::new(),
            audio,
        };
        match long_form {
            LongForm::Sequential => walk.planned_to = (walk.audio.n_samples() > 0).then_some(0),
            LongForm::Batched(regions) => walk.plan_regions(regions, part, batch_size)?,
        }
        Ok(walk)
    }

    fn plan_regions(
        &mut self,
        regions: &[SpeechRegion],
        part: Option<SpeechRegion>,
        batch_size: usize,
    ) -> Result<()> {
        let n_samples = self.audio.n_samples();
        let sample = |seconds: f64| ((seconds.max(0.0) * RATE).round() as u64).min(n_samples);
        let spans: Vec<SpeechSpan> = regions
            .iter()
            .map(|region| SpeechSpan {
                start: sample(region.start),
                end: sample(region.end),
            })
            .filter(|span| span.start < span.end)
            .collect();
        let options = WindowOptions {
            limit: self.longest,
            max_gap: samples(LONGEST_GAP),
        };
        let audio = Arc::clone(&self.audio);
        let mut cuts = Vec::new();
        let packed = pack_windows(&spans, &options, &mut |range| {
            let cut = quietest_place(&*audio, range)?;
            cuts.push(cut);
            Ok(cut)
        })?;
        let is_cut = |at: u64| cuts.contains(&at);
        let mut windows: Vec<Window> = packed
            .iter()
            .enumerate()
            .filter(|(_, window)| part.is_none_or(|part| part.contains_sample(window.start)))
            .map(|(index, packed)| {
                let core = packed.start..packed.end;
                let reach = |at: u64| if is_cut(at) { samples(REACH) } else { 0 };
                Window {
                    index,
                    samples: core.start.saturating_sub(reach(core.start))
                        ..(core.end + reach(core.end)).min(n_samples),
                    core,
                }
            })
            .collect();
        self.first = windows.first().map_or(0, |window| window.index);
        self.n_planned = self.first + windows.len();
        self.total_s = windows.iter().map(Window::core_seconds).sum();
        for block in windows.chunks_mut((batch_size * BATCHES_SORTED).max(1)) {
            block.sort_by_key(|window| window.samples.end - window.samples.start);
        }
        self.waiting = windows.into();
        Ok(())
    }

    /// The next window; `None` when all are given out.
    ///
    /// # Errors
    /// [`crate::EngineError::Audio`] when the audio cannot be read.
    pub(crate) fn next_window(&mut self) -> Result<Option<Window>> {
        let window = match (self.waiting.pop_front(), self.planned_to) {
            (Some(window), _) => window,
            (None, None) => return Ok(None),
            (None, Some(start)) => self.plan_next(start)?,
        };
        self.in_flight += 1;
        Ok(Some(window))
    }

    fn plan_next(&mut self, start: u64) -> Result<Window> {
        let n_samples = self.audio.n_samples();
        let left = n_samples - start;
        let end = if left <= self.longest {
            n_samples
        } else {
            // Two about equal windows rather than one and a rest.
            let latest = self.longest.min(left - left / 4);
            quietest_place(&*self.audio, start + latest * 2 / 3..start + latest)?
        };
        self.planned_to = (end < n_samples).then_some(end);
        let index = self.n_planned;
        self.n_planned += 1;
        Ok(Window {
            index,
            samples: start.saturating_sub(samples(REACH))..(end + samples(REACH)).min(n_samples),
            core: start..end,
        })
    }

    /// Takes a window back with its words.
    pub(crate) fn accept(&mut self, window: Window, words: Vec<TimedWord>) {
        self.in_flight -= 1;
        self.done_s += window.core_seconds();
        self.heard.insert(window.index, Heard { window, words });
        while let Some(heard) = self.heard.remove(&self.next_to_join()) {
            self.join(heard);
        }
    }

    /// Index of the window whose words come next.
    fn next_to_join(&self) -> usize {
        self.joined
            .as_ref()
            .map_or(self.first, |window| window.index + 1)
    }

    /// Takes back a window that was not decoded.
    pub(crate) fn give_up(&mut self) {
        self.in_flight -= 1;
    }

    /// Whether nothing is left to decode or to wait for.
    pub(crate) fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.planned_to.is_none() && self.in_flight == 0
    }

    /// Seconds of audio done.
    pub(crate) fn progress(&self) -> f64 {
        let duration = self.audio.duration();
        if self.total_s <= 0.0 {
            return duration;
        }
        (duration * self.done_s / self.total_s).min(duration)
    }

    /// Puts the words of the next window behind those before it.
    fn join(&mut self, Heard { window, mut words }: Heard) {
        // A neighbour that belongs to another part of the file answers for its own side of the cut.
        let core = window.core.start as f64 / RATE..window.core.end as f64 / RATE;
        let is_planned = |index: usize| {
            let is_last = self.planned_to.is_none() && index >= self.n_planned;
            index >= self.first && !is_last
        };
        let has_left = window.samples.start == window.core.start
            || window.index.checked_sub(1).is_some_and(is_planned);
        let has_right = window.samples.end == window.core.end || is_planned(window.index + 1);
        words.retain(|word| {
            let middle = middle(word);
            (has_left || middle >= core.start) && (has_right || middle < core.end)
        });
        let before = self.joined.as_ref();
        if before.is_some_and(|before| before.samples.end > window.samples.start) {
            join(&mut self.words, words, core.start);
        } else {
            self.words.extend(words);
        }
        self.joined = Some(window);
    }

    /// The words that are certain by now and were not taken before, in order: no window that is still to come reaches
    /// back to them.
    pub(crate) fn take_certain(&mut self) -> Vec<TimedWord> {
        let Some(last) = &self.joined else {
            return Vec::new();
        };
        // A seam is found among words that both sides may have heard.
        let n_certain = if last.samples.end > last.core.end {
            let heard_twice = last.core.end as f64 / RATE - REACH - SAME_WORD;
            self.words.partition_point(|word| word.end < heard_twice)
        } else {
            self.words.len()
        };
        self.words.drain(..n_certain).collect()
    }

    /// All words not yet taken, in order.
    pub(crate) fn finish(self) -> Vec<TimedWord> {
        self.words
    }
}

fn samples(seconds: f64) -> u64 {
    (seconds * RATE) as u64
}

/// Joins the words of a window to those before it. Both heard what lies [`REACH`] around the seam: their words are laid
/// beside each other where the most in a row are the same, and the seam goes behind the one nearest to it. Where none
/// are the same, each keeps its side.
fn join(words: &mut Vec<TimedWord>, next: Vec<TimedWord>, seam: f64) {
    let from = words.partition_point(|word| word.end < seam - REACH);
    let until = next.partition_point(|word| word.start < seam + REACH);
    let candidates = (from..words.len()).flat_map(|at| (0..until).map(move |to| (at, to)));
    let matched = candidates
        .filter(|&(at, to)| is_same(&words[at], &next[to]))
        .max_by(|&a, &b| {
            let alike = |(at, to)| n_alike(words, &next, at, to);
            let distance = |(at, _): (usize, usize)| (middle(&words[at]) - seam).abs();
            alike(a)
                .cmp(&alike(b))
                .then(distance(b).total_cmp(&distance(a)))
        });
    match matched {
        Some((at, to)) => {
            words.truncate(at + 1);
            words.extend(next.into_iter().skip(to + 1));
        }
        None => {
            words.truncate(words.partition_point(|word| middle(word) < seam));
            words.extend(next.into_iter().skip_while(|word| middle(word) < seam));
        }
    }
}

fn middle(word: &TimedWord) -> f64 {
    f64::midpoint(word.start, word.end)
}

/// Whether two windows heard one word.
fn is_same(a: &TimedWord, b: &TimedWord) -> bool {
    (middle(a) - middle(b)).abs() <= SAME_WORD && a.bare() == b.bare()
}

/// Words in a row that are the same around `a[at]` and `b[to]`.
fn n_alike(a: &[TimedWord], b: &[TimedWord], at: usize, to: usize) -> usize {
    let before = a[..at].iter().rev().zip(b[..to].iter().rev());
    let after = a[at..].iter().zip(&b[to..]);
    before.take_while(|(a, b)| is_same(a, b)).count()
        + after.take_while(|(a, b)| is_same(a, b)).count()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    /// A small generator, so that a failure can be replayed from its seed.
    struct Random(u64);

    impl Random {
        fn unit(&mut self) -> f64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 11) as f64 / (1_u64 << 53) as f64
        }

        fn between(&mut self, range: Range<f64>) -> f64 {
            range.start + self.unit() * (range.end - range.start)
        }
    }

    const VOCABULARY: [&str; 6] = ["the", "of", "no", "yes", "number", "two"];

    /// Speech without a pause worth the name: the hardest to cut.
    fn speech(random: &mut Random, seconds: f64) -> Vec<TimedWord> {
        let mut words = Vec::new();
        let mut at = 0.3;
        while at < seconds - 1.0 {
            let end = at + random.between(0.1..0.6);
            let text = VOCABULARY[(random.unit() * 6.0) as usize];
            words.push(TimedWord {
                text: format!(" {text}"),
                start: at,
                end,
                tokens: vec![words.len() as u32],
                logprobs: vec![-0.1],
            });
            at = end + random.between(0.0..0.15);
        }
        words
    }

    /// What a recogniser hears of the words in a window: times a frame off, and wrong words at the edges it cut.
    fn hear(random: &mut Random, words: &[TimedWord], window: &Window) -> Vec<TimedWord> {
        let seconds = window.seconds();
        let inside = words
            .iter()
            .filter(|word| word.end > seconds.start && word.start < seconds.end);
        inside
            .map(|word| {
                let shift = random.between(-0.08..0.08);
                let is_cut = word.start < seconds.start + 0.1 || word.end > seconds.end - 0.1;
                TimedWord {
                    text: if is_cut {
                        " uh".to_owned()
                    } else {
                        word.text.clone()
                    },
                    start: word.start + shift,
                    end: word.end + shift,
                    ..word.clone()
                }
            })
            .collect()
    }

    #[test]
    fn no_word_is_lost_or_doubled_at_any_seam_of_hours_of_speech() {
        for seed in 0..20 {
            let mut random = Random(seed);
            let seconds = random.between(60.0..7_200.0);
            let said = speech(&mut random, seconds);
            let audio: Arc<dyn AudioSource> = Arc::new(vec![0.0_f32; (seconds * RATE) as usize]);
            let new = |audio| Walk::new(audio, &LongForm::Sequential, None, 8, 30.0).unwrap();
            let (mut walk, mut untold) = (new(Arc::clone(&audio)), new(audio));
            let mut taken: Vec<Window> = Vec::new();
            let mut told = Vec::new();
            while let Some(window) = walk.next_window().unwrap() {
                assert_eq!(untold.next_window().unwrap().as_ref(), Some(&window));
                taken.push(window);
            }
            // They come back in any order.
            while !taken.is_empty() {
                let window = taken.swap_remove((random.unit() * taken.len() as f64) as usize);
                let heard = hear(&mut random, &said, &window);
                walk.accept(window.clone(), heard.clone());
                untold.accept(window, heard);
                told.extend(walk.take_certain());
            }
            assert!(walk.is_done() && (walk.progress() - walk.audio.duration()).abs() < 1e-6);
            told.extend(walk.finish());
            let joined = untold.finish();
            assert_eq!(
                told, joined,
                "what is taken early is what would have come at the end"
            );
            let texts = |words: &[TimedWord]| {
                words
                    .iter()
                    .map(|word| word.text.clone())
                    .collect::<Vec<_>>()
            };
            // What was cut at the very beginning or end of the file is wrong in any case.
            assert_eq!(texts(&joined), texts(&said), "seed {seed}");
            for (joined, said) in joined.iter().zip(&said) {
                assert!((joined.start - said.start).abs() < 0.09, "seed {seed}");
            }
        }
    }

    #[test]
    fn regions_become_windows_of_their_own_and_short_gaps_are_bridged() {
        let region = |start: f64, end: f64| SpeechRegion { start, end };
        let audio = Arc::new(vec![0.0_f32; 16_000 * 200]);
        let regions = [
            region(1.0, 4.0),
            region(4.3, 6.0),
            region(9.0, 12.0),
            // Longer than a window: cut, and heard on both sides of the cut.
            region(20.0, 65.0),
        ];
        let mut walk =
            Walk::new(audio, &LongForm::Batched(regions.to_vec()), None, 2, 30.0).unwrap();
        let mut windows = Vec::new();
        while let Some(window) = walk.next_window().unwrap() {
            windows.push(window);
        }
        windows.sort_by_key(|window| window.index);
        let seconds: Vec<_> = windows.iter().map(Window::seconds).collect();
        assert_eq!(seconds[..2], [1.0..6.0, 9.0..12.0]);
        assert_eq!(windows.len(), 4);
        assert_eq!((seconds[2].start, seconds[3].end), (20.0, 65.0));
        assert!((seconds[2].end - seconds[3].start - 2.0 * REACH).abs() < 1e-9);
        assert_eq!(windows[2].core.end, windows[3].core.start);
    }

    #[test]
    fn audio_of_nothing_has_no_windows() {
        for long_form in [LongForm::Sequential, LongForm::Batched(Vec::new())] {
            let mut walk =
                Walk::new(Arc::new(Vec::<f32>::new()), &long_form, None, 8, 30.0).unwrap();
            assert!(walk.is_done() && walk.next_window().unwrap().is_none());
            assert!(walk.finish().is_empty());
        }
    }
}
