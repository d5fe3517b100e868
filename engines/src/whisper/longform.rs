//! Walks through audio of any length in windows of 30 s: one after the other, each starting where the last finished
//! segment ended (the reference's `transcribe()`), or side by side over stretches of speech. A walk only says what to
//! decode next and takes in what came out; [`super::pipeline`] does the decoding, for several walks at once.

use std::collections::VecDeque;
use std::sync::Arc;

use ndarray::{ArrayViewMut2, s};

use crate::audio_source::{AudioSource, SAMPLE_RATE};
use crate::chunking::{WindowOptions, pack_windows, quietest_place};
use crate::error::Result;
use crate::mel::{self, LogMel, Stretch};
use crate::transcription::{LongForm, Segment, SpeechRegion, TranscribeOptions};
use crate::vad::SpeechSpan;
use crate::whisper::decoding::DecodingResult;
use crate::whisper::segments::{WindowSegment, WindowSegments, split_segments};
use crate::whisper::timing::give_length;
use crate::whisper::tokenizer::Tokenizer;

/// Speech at the end of a batched window that its text leaves uncovered, above which the rest is decoded again.
const UNCOVERED_SPEECH: f64 = 3.0;

/// Above this temperature a text is too wild to prompt the next window with.
const MAX_PROMPT_TEMPERATURE: f32 = 0.5;

/// Tokens of text kept to prompt the next window with; no model takes more.
const REMEMBERED_TOKENS: usize = 448;

/// Frames listened to in one go: ten minutes.
const LISTEN_FRAMES: usize = 60_000;

/// The same text this often in a row, in a window that repeats itself, is a loop.
const MAX_SAME_SEGMENTS: usize = 2;

/// One window to decode.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Window {
    /// First sample of the window in the audio.
    pub start: u64,
    /// Frames that hold audio; the rest of the 30 s is padding.
    pub n_frames: usize,
    /// Tokens of the text before it.
    pub previous: Vec<u32>,
    /// Stretches of speech inside, seconds in the audio; known in batched walks only.
    speech: Vec<SpeechRegion>,
}

impl Window {
    /// Share of its speech that these segments cover, 0–1; `None` where the speech is not known.
    pub(crate) fn covered(&self, segments: &[WindowSegment]) -> Option<f64> {
        let speech = total(&self.speech);
        if speech <= 0.0 {
            return None;
        }
        let offset = self.start as f64 / f64::from(SAMPLE_RATE);
        let covered: f64 = self
            .speech
            .iter()
            .flat_map(|region| segments.iter().map(move |segment| (region, segment)))
            .map(|(region, segment)| {
                let start = region.start.max(offset + segment.start);
                (region.end.min(offset + segment.end) - start).max(0.0)
            })
            .sum();
        Some(covered / speech)
    }
}

/// Sizes a walk needs to know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WindowShape {
    /// Frames of a window: 3000.
    pub n_frames: usize,
    /// Samples between frames: 160.
    pub hop_length: usize,
}

impl WindowShape {
    fn n_samples(self) -> u64 {
        (self.n_frames * self.hop_length) as u64
    }
}

/// The state of one walk.
pub(crate) struct Walk {
    pub audio: Arc<dyn AudioSource>,
    shape: WindowShape,
    mode: Mode,
    segments: Vec<Segment>,
    /// How many of them were told as settled.
    n_told: usize,
    /// Windows given out and not yet taken back.
    in_flight: usize,
    pub warnings: Vec<String>,
}

enum Mode {
    Sequential {
        /// Next frame to decode.
        seek: usize,
        /// Frames of the whole audio.
        n_frames: usize,
        /// The largest log-mel energy of the frames up to `heard`. A window can be normalised once all are heard.
        maximum: f32,
        heard: usize,
        /// Tokens of all segments so far, when they prompt the next window.
        previous: Vec<u32>,
        condition: bool,
    },
    Batched {
        waiting: VecDeque<Window>,
        /// Seconds of speech in all windows and in the finished ones.
        total_speech: f64,
        done_speech: f64,
    },
}

impl Walk {
    /// Plans a walk.
    ///
    /// # Errors
    /// [`crate::EngineError::Audio`] when the audio cannot be read.
    pub(crate) fn new(
        audio: Arc<dyn AudioSource>,
        options: &TranscribeOptions,
        shape: WindowShape,
    ) -> Result<Self> {
        let n_samples = audio.n_samples();
        let mode = match &options.long_form {
            LongForm::Sequential => Mode::Sequential {
                seek: 0,
                n_frames: sequential_frames(n_samples, shape),
                maximum: f32::NEG_INFINITY,
                heard: 0,
                previous: Vec::new(),
                condition: options.condition_on_previous_text,
            },
            LongForm::Batched(regions) => batched(&*audio, regions, options.part, shape)?,
        };
        Ok(Self {
            audio,
            shape,
            mode,
            segments: Vec::new(),
            n_told: 0,
            in_flight: 0,
            warnings: Vec::new(),
        })
    }

    /// Whether the whole audio fits into one window.
    pub(crate) fn is_short(&self) -> bool {
        self.audio.n_samples() <= self.shape.n_samples()
    }

    /// Whether windows must predict times: a sequential walk needs them to know where to go on.
    pub(crate) fn needs_timestamps(&self) -> bool {
        matches!(self.mode, Mode::Sequential { .. }) && !self.is_short()
    }

    /// The next window that can be decoded now; `None` while a sequential walk waits for its last, or at the end.
    pub(crate) fn next_window(&mut self) -> Option<Window> {
        let window = match &mut self.mode {
            Mode::Sequential {
                seek,
                n_frames,
                previous,
                ..
            } if self.in_flight == 0 && *seek < *n_frames => Window {
                start: (*seek * self.shape.hop_length) as u64,
                n_frames: if *n_frames <= self.shape.n_frames {
                    // The reference takes a short file's padding for audio.
                    self.shape.n_frames - *seek
                } else {
                    self.shape.n_frames.min(*n_frames - *seek)
                },
                previous: previous.clone(),
                speech: Vec::new(),
            },
            Mode::Sequential { .. } => return None,
            Mode::Batched { waiting, .. } => waiting.pop_front()?,
        };
        self.in_flight += 1;
        Some(window)
    }

    /// Whether nothing is left to decode or to wait for.
    pub(crate) fn is_done(&self) -> bool {
        let exhausted = match &self.mode {
            Mode::Sequential { seek, n_frames, .. } => seek >= n_frames,
            Mode::Batched { waiting, .. } => waiting.is_empty(),
        };
        exhausted && self.in_flight == 0
    }

    /// Seconds of audio done.
    pub(crate) fn progress(&self) -> f64 {
        let duration = self.audio.duration();
        match &self.mode {
            Mode::Sequential { seek, .. } => {
                (*seek * self.shape.hop_length) as f64 / f64::from(SAMPLE_RATE)
            }
            Mode::Batched { total_speech, .. } if *total_speech <= 0.0 => duration,
            Mode::Batched {
                total_speech,
                done_speech,
                ..
            } => duration * done_speech / total_speech,
        }
        .min(duration)
    }

    /// Listens ahead, so that windows can be normalised by the loudest frame of the file: at most [`LISTEN_FRAMES`] a
    /// call, so that a file of ten hours holds up nobody. Answers whether windows can be decoded.
    ///
    /// # Errors
    /// [`crate::EngineError::Audio`] when the audio cannot be read.
    pub(crate) fn listen(&mut self, log_mel: &LogMel, threads: usize) -> Result<bool> {
        let n_samples = self.padded_samples();
        let Mode::Sequential { maximum, heard, .. } = &mut self.mode else {
            return Ok(true);
        };
        let n_frames = log_mel.n_frames(n_samples);
        let until = n_frames.min(*heard + LISTEN_FRAMES);
        if *heard < until {
            let stretch = Stretch {
                source: &*self.audio,
                start: 0,
                n_samples,
            };
            *maximum = maximum.max(log_mel.maximum(&stretch, *heard..until, threads)?);
            *heard = until;
        }
        Ok(until == n_frames)
    }

    /// A short file is padded with silence to a window before anything else.
    fn padded_samples(&self) -> u64 {
        self.audio.n_samples().max(self.shape.n_samples())
    }

    /// Fills `out` `[n_mels, n_frames]` with the features of a window.
    ///
    /// # Errors
    /// [`crate::EngineError::Audio`] when the audio cannot be read.
    pub(crate) fn features(
        &self,
        window: &Window,
        log_mel: &LogMel,
        mut out: ArrayViewMut2<'_, f32>,
        threads: usize,
    ) -> Result<()> {
        let n_samples = self.padded_samples();
        match &self.mode {
            // A long file is one spectrogram: its maximum is the file's, and what lies past its end is 0.0 in the
            // feature's own domain. A short one is padded with silence first (both as the reference).
            Mode::Sequential { maximum, .. } => {
                let stretch = Stretch {
                    source: &*self.audio,
                    start: 0,
                    n_samples,
                };
                let first =
                    usize::try_from(window.start).unwrap_or(usize::MAX) / self.shape.hop_length;
                let held = window
                    .n_frames
                    .min(log_mel.n_frames(n_samples).saturating_sub(first));
                let mut held_out = out.slice_mut(s![.., ..held]);
                log_mel.log10_frames(&stretch, first, held_out.view_mut(), threads)?;
                mel::normalize(&mut held_out, *maximum);
                out.slice_mut(s![.., held..]).fill(0.0);
            }
            // A window of its own: silence after its end, whatever the file goes on to say.
            Mode::Batched { .. } => {
                let end = window.start + (window.n_frames * self.shape.hop_length) as u64;
                let until = Until {
                    source: &*self.audio,
                    end,
                };
                let stretch = Stretch {
                    source: &until,
                    start: window.start,
                    n_samples: self.shape.n_samples(),
                };
                log_mel.log10_frames(&stretch, 0, out.view_mut(), threads)?;
                let maximum = largest(&out);
                mel::normalize(&mut out, maximum);
            }
        }
        Ok(())
    }

    /// Cuts a window's tokens into segments.
    pub(crate) fn split(
        &self,
        window: &Window,
        result: &DecodingResult,
        tokenizer: &Tokenizer,
    ) -> WindowSegments {
        if result.is_silence {
            return WindowSegments {
                segments: Vec::new(),
                advance: window.n_frames,
                unfinished: 0..0,
            };
        }
        let mut split = split_segments(&result.tokens, window.n_frames, tokenizer);
        // A batched window ends in silence: what follows the last pair of times was not cut off, only not closed.
        if matches!(self.mode, Mode::Batched { .. }) && !split.unfinished.is_empty() {
            let first = result.tokens[split.unfinished.start - 1];
            let start = if tokenizer.is_timestamp(first) {
                tokenizer.timestamp(first)
            } else {
                0.0
            };
            let end = self.seconds(window.n_frames);
            if let Some(last) = split.segments.last_mut() {
                last.tokens.end = split.unfinished.start - 1;
            }
            let tokens = split.unfinished.start - 1..split.unfinished.end;
            split.segments.push(WindowSegment {
                start,
                end: end.max(start),
                tokens,
            });
            split.unfinished = result.tokens.len()..result.tokens.len();
        }
        split
    }

    /// Takes a window's answer back. `segments` are those of [`Walk::split`], placed in the audio, with their words.
    pub(crate) fn accept(
        &mut self,
        window: Window,
        result: &DecodingResult,
        advance: usize,
        mut segments: Vec<Segment>,
        tokenizer: &Tokenizer,
    ) {
        self.in_flight -= 1;
        if result.was_looping {
            drop_repeated(&mut segments);
            let at = window.start as f64 / f64::from(SAMPLE_RATE);
            self.warnings.push(format!(
                "the model repeated itself at {at:.1} s; the repetition was removed"
            ));
        }
        match &mut self.mode {
            Mode::Sequential {
                seek,
                previous,
                condition,
                ..
            } => {
                *seek += advance.max(1);
                if *condition {
                    remember(previous, &segments, result, tokenizer);
                }
            }
            Mode::Batched {
                waiting,
                done_speech,
                ..
            } => {
                let end = window.start + (window.n_frames * self.shape.hop_length) as u64;
                let covered = segments
                    .last()
                    .map_or(f64::NEG_INFINITY, |segment| segment.end);
                match uncovered(&window, covered, end, self.shape) {
                    Some(rest) => {
                        *done_speech += total(&window.speech) - total(&rest.speech);
                        waiting.push_front(rest);
                    }
                    None => *done_speech += total(&window.speech),
                }
            }
        }
        segments.retain(|segment| !segment.text.trim().is_empty());
        self.segments.append(&mut segments);
    }

    /// Takes back a window that was not decoded.
    pub(crate) fn give_up(&mut self) {
        self.in_flight -= 1;
    }

    /// The segments that are certain by now and were not told before: whatever is still to be decoded starts later.
    pub(crate) fn settled(&mut self) -> Vec<Segment> {
        let undecided = match &self.mode {
            _ if self.in_flight > 0 => return Vec::new(),
            Mode::Sequential { seek, .. } => self.seconds(*seek),
            Mode::Batched { waiting, .. } => waiting.front().map_or(f64::INFINITY, |window| {
                window.start as f64 / f64::from(SAMPLE_RATE)
            }),
        };
        self.segments.sort_by(|a, b| a.start.total_cmp(&b.start));
        let n_settled = self
            .segments
            .partition_point(|segment| segment.start < undecided)
            .max(self.n_told);
        let told = std::mem::replace(&mut self.n_told, n_settled);
        self.segments[told..n_settled].to_vec()
    }

    /// All segments in order of time, inside the audio.
    pub(crate) fn finish(mut self) -> (Vec<Segment>, Vec<String>) {
        let duration = self.audio.duration();
        self.segments.sort_by(|a, b| a.start.total_cmp(&b.start));
        for segment in &mut self.segments {
            segment.start = segment.start.clamp(0.0, duration);
            segment.end = segment.end.clamp(segment.start, duration);
            for word in &mut segment.words {
                word.start = word.start.clamp(0.0, duration);
                word.end = word.end.clamp(word.start, duration);
            }
            give_length(&mut segment.words, segment.start, segment.end);
        }
        (self.segments, self.warnings)
    }

    fn seconds(&self, n_frames: usize) -> f64 {
        (n_frames * self.shape.hop_length) as f64 / f64::from(SAMPLE_RATE)
    }
}

/// Frames of a file; the end of a long one that is no whole frame has no features, a short one is padded anyway.
fn sequential_frames(n_samples: u64, shape: WindowShape) -> usize {
    let hop = shape.hop_length as u64;
    let n_frames = if n_samples > shape.n_samples() {
        n_samples / hop
    } else {
        n_samples.div_ceil(hop)
    };
    usize::try_from(n_frames).unwrap_or(usize::MAX)
}

fn batched(
    audio: &dyn AudioSource,
    regions: &[SpeechRegion],
    part: Option<SpeechRegion>,
    shape: WindowShape,
) -> Result<Mode> {
    let n_samples = audio.n_samples();
    let sample =
        |seconds: f64| ((seconds.max(0.0) * f64::from(SAMPLE_RATE)).round() as u64).min(n_samples);
    let spans: Vec<SpeechSpan> = regions
        .iter()
        .map(|region| SpeechSpan {
            start: sample(region.start),
            end: sample(region.end),
        })
        .filter(|span| span.start < span.end)
        .collect();
    let options = WindowOptions {
        limit: shape.n_samples(),
        ..WindowOptions::default()
    };
    let packed = pack_windows(&spans, &options, &mut |range| quietest_place(audio, range))?;
    let waiting: VecDeque<Window> = packed
        .into_iter()
        .filter(|window| part.is_none_or(|part| part.contains_sample(window.start)))
        .map(|window| Window {
            start: window.start,
            n_frames: n_frames(window.end - window.start, shape),
            previous: Vec::new(),
            speech: window.spans.into_iter().map(SpeechRegion::from).collect(),
        })
        .collect();
    let total_speech = waiting.iter().map(|window| total(&window.speech)).sum();
    Ok(Mode::Batched {
        waiting,
        total_speech,
        done_speech: 0.0,
    })
}

fn n_frames(n_samples: u64, shape: WindowShape) -> usize {
    usize::try_from(n_samples.div_ceil(shape.hop_length as u64))
        .map_or(shape.n_frames, |n| n.min(shape.n_frames))
}

fn total(speech: &[SpeechRegion]) -> f64 {
    speech.iter().map(|region| region.end - region.start).sum()
}

fn largest(features: &ArrayViewMut2<'_, f32>) -> f32 {
    features.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// The rest of a window whose text stopped long before its speech did. None when it covers enough, or when nothing of
/// it was covered: decoding the same audio again would give the same.
fn uncovered(window: &Window, covered: f64, end: u64, shape: WindowShape) -> Option<Window> {
    let first = window.speech.first()?.start;
    let rest: Vec<SpeechRegion> = window
        .speech
        .iter()
        .filter(|region| region.end > covered)
        .map(|region| SpeechRegion {
            start: region.start.max(covered),
            end: region.end,
        })
        .collect();
    if total(&rest) < UNCOVERED_SPEECH || covered <= first {
        return None;
    }
    let start = (rest.first()?.start * f64::from(SAMPLE_RATE)) as u64;
    let n_frames = n_frames(end.saturating_sub(start), shape);
    Some(Window {
        start,
        n_frames,
        previous: Vec::new(),
        speech: rest,
    })
}

/// Keeps what the next window is prompted with.
fn remember(
    previous: &mut Vec<u32>,
    segments: &[Segment],
    result: &DecodingResult,
    tokenizer: &Tokenizer,
) {
    for segment in segments {
        // Of a pair of times that ends a segment, only the first is text of this window.
        let ends_in_pair = segment.tokens.len() > 2
            && tokenizer.is_timestamp(segment.tokens[segment.tokens.len() - 2]);
        previous
            .extend_from_slice(&segment.tokens[..segment.tokens.len() - usize::from(ends_in_pair)]);
    }
    let forgotten = previous.len().saturating_sub(REMEMBERED_TOKENS);
    previous.drain(..forgotten);
    if result.temperature > MAX_PROMPT_TEMPERATURE || result.was_looping {
        previous.clear();
    }
}

/// Drops segments that say once more what the ones before them said.
fn drop_repeated(segments: &mut Vec<Segment>) {
    let mut same = 0;
    let mut last = String::new();
    segments.retain(|segment| {
        same = if segment.text == last { same + 1 } else { 1 };
        segment.text.clone_into(&mut last);
        same <= MAX_SAME_SEGMENTS
    });
}

/// A source that falls silent at `end`.
struct Until<'a> {
    source: &'a dyn AudioSource,
    end: u64,
}

impl AudioSource for Until<'_> {
    fn n_samples(&self) -> u64 {
        self.end
    }

    fn read(&self, start: u64, out: &mut [f32]) -> Result<()> {
        let held = usize::try_from(self.end.saturating_sub(start))
            .map_or(out.len(), |held| held.min(out.len()));
        let (inside, after) = out.split_at_mut(held);
        after.fill(0.0);
        self.source.read(start, inside)
    }
}
