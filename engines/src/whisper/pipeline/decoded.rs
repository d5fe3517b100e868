//! What came out of a window, put at its place in the audio.

use crate::audio_source::SAMPLE_RATE;
use crate::transcription::{Segment, Word};
use crate::whisper::decoding::DecodingResult;
use crate::whisper::language::Detected;
use crate::whisper::longform::Window;
use crate::whisper::segments::WindowSegments;
use crate::whisper::timing::{SegmentSpan, WordTiming};
use crate::whisper::tokenizer::Tokenizer;

/// What came out of a window.
pub(super) struct Decoded {
    pub result: DecodingResult,
    pub split: WindowSegments,
    pub words: Vec<WordTiming>,
    pub detected: Option<Detected>,
    /// It was decoded without the prompt and vocabulary of its request.
    pub is_unprompted: bool,
}

impl Decoded {
    /// Segments and words at their times in the audio.
    pub(super) fn place(&self, window: &Window, tokenizer: &Tokenizer) -> Vec<Segment> {
        let offset = window.start as f64 / f64::from(SAMPLE_RATE);
        let result = &self.result;
        let mut words = self.words.iter();
        self.split
            .segments
            .iter()
            .map(|segment| {
                let tokens = result.tokens[segment.tokens.clone()].to_vec();
                let (start, end) = (offset + segment.start, offset + segment.end);
                let mut n_text = tokens
                    .iter()
                    .filter(|&&token| token < tokenizer.special().eot)
                    .count();
                let mut placed: Vec<Word> = Vec::new();
                while n_text > 0 {
                    let Some(word) = words.next() else { break };
                    n_text = n_text.saturating_sub(word.n_tokens);
                    placed.push(place_word(word, offset, start, end));
                }
                Segment {
                    start,
                    end,
                    text: tokenizer.decode(&tokens),
                    token_logprobs: result.logprobs[segment.tokens.clone()].to_vec(),
                    tokens,
                    words: placed,
                    avg_logprob: result.avg_logprob,
                    no_speech_prob: Some(result.no_speech_prob),
                    compression_ratio: result.compression_ratio,
                    temperature: result.temperature,
                }
            })
            .collect()
    }

    /// Text tokens of all segments with their log-probabilities.
    pub(super) fn text_tokens(&self, eot: u32) -> Vec<(u32, f32)> {
        let tokens = self
            .split
            .segments
            .iter()
            .flat_map(|segment| segment.tokens.clone());
        tokens
            .map(|at| (self.result.tokens[at], self.result.logprobs[at]))
            .filter(|(token, _)| *token < eot)
            .collect()
    }

    /// Where each segment's text lies, of the first `n_tokens` text tokens.
    pub(super) fn spans(&self, eot: u32, n_tokens: usize) -> Vec<SegmentSpan> {
        let mut first = 0;
        let segments = self.split.segments.iter().map(|segment| {
            let tokens = &self.result.tokens[segment.tokens.clone()];
            let n_text = tokens.iter().filter(|&&token| token < eot).count();
            let n_text = n_text.min(n_tokens - first);
            let span = SegmentSpan::new(first, n_text, segment.start, segment.end);
            first += n_text;
            span
        });
        segments.collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.split.segments.is_empty()
    }
}

/// Times of words stay inside their segment: its time tokens know pauses better than attention does.
fn place_word(word: &WordTiming, offset: f64, start: f64, end: f64) -> Word {
    let word_start = (offset + word.start).clamp(start, end);
    Word {
        start: word_start,
        end: (offset + word.end).clamp(word_start, end),
        text: word.text.clone(),
        probability: word.probability,
    }
}
