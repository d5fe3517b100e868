//! One path over a whole file, in steps of bounded length. Each symbol may only be said in its segment and half a
//! second around it; where segments touch, their text forms one row of symbols, so that the speech in a segment's
//! margin is explained by its neighbour's words and not by its own.

use std::ops::Range;

use super::AlignRequest;
use super::Alignment;
use super::emissions::{Emissions, frames_of};
use super::network::Network;
use super::text::{SpelledWord, spell_words};
use super::trellis::{Ending, Rows, Said, Token, align as best_path};
use super::vocabulary::Vocabulary;
use super::words::{TimedWord, assemble};
use crate::audio_source::SAMPLE_RATE;
use crate::error::Result;
use crate::session::RunGuard;

/// How far outside its segment a word may be said, seconds.
const MARGIN: f64 = 0.5;
/// Segments that overlap by more than this are not read as one text, seconds: two people speak at once.
const MOST_OVERLAP: f64 = 1.0;
/// Longest stretch that one trellis covers, frames (60 s at 20 ms a frame).
const STEP: usize = 3_000;
/// Frames at the end of an open trellis whose path is not trusted (10 s): what follows could still change it.
const UNTRUSTED: usize = 500;

/// Aligns a request.
///
/// # Errors
/// Audio that cannot be read, a failing graph, a stopped guard.
pub(super) fn align(
    network: &Network,
    vocabulary: &Vocabulary,
    request: &AlignRequest,
    run: &RunGuard,
) -> Result<Alignment> {
    let n_frames = frames_of(network, &*request.audio);
    let stride = network.grid().stride as f64 / f64::from(SAMPLE_RATE);
    let words: Vec<Vec<SpelledWord>> = request
        .segments
        .iter()
        .map(|segment| spell_words(&segment.text, vocabulary))
        .collect();
    let mut timed: Vec<Vec<Option<TimedWord>>> =
        words.iter().map(|words| vec![None; words.len()]).collect();
    let spans: Vec<Range<usize>> = request
        .segments
        .iter()
        .map(|segment| {
            let frame = |seconds: f64| (seconds / stride).clamp(0.0, n_frames as f64) as usize;
            frame(segment.start - MARGIN)..frame((segment.end + MARGIN).max(0.0) + stride)
        })
        .collect();
    let texts: Vec<Text> = lanes(&spans, (MOST_OVERLAP / stride) as usize)
        .into_iter()
        .map(|lane| Text::new(&lane, &spans, &words, vocabulary))
        .collect();
    let all = |text: &Text| text.frames_before(usize::MAX);
    let total: usize = texts.iter().map(all).sum();
    let mut done = 0;
    for text in &texts {
        let mut walk = Walk {
            text,
            emissions: Emissions::new(network, &*request.audio, &text.stretches),
            columns: network.columns(),
            vocabulary,
            run,
        };
        walk.run(&mut timed, &mut |frame| {
            let share = (done + text.frames_before(frame)) as f64 / total.max(1) as f64;
            request.control.report(request.audio.duration() * share);
        })?;
        done += all(text);
    }
    Ok(assemble(request, &words, &timed, network.grid()))
}

/// Puts segments, by number, into as few rows as possible in which none overlaps the one before by more than
/// `most_overlap` (their margins not counted): one row unless people speak at once. Empty spans are left out.
fn lanes(spans: &[Range<usize>], most_overlap: usize) -> Vec<Vec<usize>> {
    let margins = 2 * most_overlap;
    let mut order: Vec<usize> = (0..spans.len()).filter(|&i| !spans[i].is_empty()).collect();
    order.sort_by_key(|&i| (spans[i].start, spans[i].end));
    let mut lanes: Vec<Vec<usize>> = Vec::new();
    for segment in order {
        let follows = |lane: &&mut Vec<usize>| {
            lane.last()
                .is_some_and(|&last| spans[segment].start + margins >= spans[last].end)
        };
        match lanes.iter_mut().find(follows) {
            Some(lane) => lane.push(segment),
            None => lanes.push(vec![segment]),
        }
    }
    lanes
}

/// The symbols of a row of segments.
struct Text {
    tokens: Vec<Token>,
    /// The word of each token as (segment, word in it); `None` for delimiters.
    owners: Vec<Option<(usize, usize)>>,
    /// The frames in which something may be said.
    stretches: Vec<Range<usize>>,
}

impl Text {
    fn new(
        lane: &[usize],
        spans: &[Range<usize>],
        words: &[Vec<SpelledWord>],
        vocabulary: &Vocabulary,
    ) -> Self {
        let mut text = Self {
            tokens: Vec::new(),
            owners: Vec::new(),
            stretches: Vec::new(),
        };
        // Neither bound may decrease from a token to the next.
        let mut latest = 0..0;
        for &segment in lane {
            let span = spans[segment].start.max(latest.start)..spans[segment].end.max(latest.end);
            let mut first = true;
            for (index, word) in words[segment].iter().enumerate() {
                if word.symbols.is_empty() {
                    continue;
                }
                // Nothing stands in a pause between two segments.
                if let Some(symbol) = vocabulary.delimiter()
                    && (word.spaced || first)
                    && span.start < latest.end
                {
                    text.tokens.push(Token {
                        symbol,
                        allowed: latest.start..span.end,
                    });
                    text.owners.push(None);
                }
                first = false;
                latest = span.clone();
                for &symbol in &word.symbols {
                    text.tokens.push(Token {
                        symbol,
                        allowed: span.clone(),
                    });
                    text.owners.push(Some((segment, index)));
                }
            }
        }
        for token in &text.tokens {
            match text.stretches.last_mut() {
                Some(last) if token.allowed.start < last.end => last.end = token.allowed.end,
                _ => text.stretches.push(token.allowed.clone()),
            }
        }
        text
    }

    /// How many of these frames come before one.
    fn frames_before(&self, frame: usize) -> usize {
        self.stretches
            .iter()
            .map(|stretch| stretch.end.min(frame).saturating_sub(stretch.start))
            .sum()
    }
}

/// One walk through a text.
struct Walk<'a> {
    text: &'a Text,
    emissions: Emissions<'a>,
    columns: usize,
    vocabulary: &'a Vocabulary,
    run: &'a RunGuard,
}

impl Walk<'_> {
    /// Gives every word its time in `timed`, by segment and word; words that do not fit their audio get none.
    /// `progress` is told the frame everything before which is done.
    fn run(
        &mut self,
        timed: &mut [Vec<Option<TimedWord>>],
        progress: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let tokens = &self.text.tokens;
        let (mut token, mut frame) = (0, 0);
        while token < tokens.len() {
            self.run.check()?;
            let from = frame.max(tokens[token].allowed.start);
            let (end, to, ending) = self.step(token, from);
            let Some(said) = self.path(token..end, from..to, ending)? else {
                (token, frame) = self.first_segment_alone(token, from, timed)?;
                continue;
            };
            let count = match ending {
                Ending::Complete => said.len(),
                Ending::Open => self.trusted_words(token, &said, to - UNTRUSTED),
            };
            self.keep(token, &said[..count], timed);
            frame = match (count.checked_sub(1), said.first()) {
                (Some(last), _) => said[last].last + 1,
                (None, Some(first)) if (from + 1..to - UNTRUSTED).contains(&first.first) => {
                    first.first
                }
                (None, _) => to - UNTRUSTED,
            };
            token += count;
            progress(frame);
        }
        Ok(())
    }

    /// The tokens and frames of the next trellis: up to the next pause between segments when that is near, else a
    /// step with an open end.
    fn step(&self, token: usize, from: usize) -> (usize, usize, Ending) {
        let tokens = &self.text.tokens;
        let limit = from + STEP;
        let mut end = token + 1;
        while tokens[end - 1].allowed.end <= limit {
            let reach = tokens[end - 1].allowed.end;
            if tokens
                .get(end)
                .is_none_or(|next| next.allowed.start >= reach)
            {
                return (end, reach, Ending::Complete);
            }
            end += 1;
        }
        // No more symbols than frames can be said.
        let most = tokens.len().min(token + STEP);
        while end < most && tokens[end].allowed.start < limit {
            end += 1;
        }
        (end, limit, Ending::Open)
    }

    fn path(
        &mut self,
        tokens: Range<usize>,
        frames: Range<usize>,
        ending: Ending,
    ) -> Result<Option<Vec<Said>>> {
        if frames.is_empty() {
            return Ok(None);
        }
        let rows = Rows {
            first: frames.start,
            columns: self.columns,
            values: self.emissions.rows(frames, self.run)?,
        };
        let (blank, wildcard) = (self.vocabulary.blank(), self.vocabulary.wildcard());
        let path = best_path(rows, &self.text.tokens[tokens], blank, wildcard, ending);
        Ok(path.map(|path| path.said))
    }

    /// How many symbols from `token` on are said before a frame, up to the end of a word.
    fn trusted_words(&self, token: usize, said: &[Said], frame: usize) -> usize {
        let owners = &self.text.owners;
        let mut count = said.iter().take_while(|said| said.last < frame).count();
        while count > 0
            && owners[token + count - 1].is_some()
            && owners.get(token + count) == Some(&owners[token + count - 1])
        {
            count -= 1;
        }
        count
    }

    /// Where a row of segments has no path, its first one is tried without the others, and given up when that fails
    /// too. Answers the token and the frame to go on from.
    fn first_segment_alone(
        &mut self,
        token: usize,
        from: usize,
        timed: &mut [Vec<Option<TimedWord>>],
    ) -> Result<(usize, usize)> {
        let owners = &self.text.owners;
        let segment = |at: usize| owners[at].map(|(segment, _)| segment);
        let Some(start) = (token..owners.len()).find(|&at| owners[at].is_some()) else {
            return Ok((owners.len(), from));
        };
        let next = (start..owners.len())
            .find(|&at| owners[at].is_some() && segment(at) != segment(start))
            .unwrap_or(owners.len());
        let end = (start..next)
            .rfind(|&at| owners[at].is_some())
            .map_or(next, |last| last + 1);
        let to = self.text.tokens[start].allowed.end.min(from + STEP);
        match self.path(start..end, from..to, Ending::Complete)? {
            Some(said) => {
                self.keep(start, &said, timed);
                Ok((next, said.last().map_or(from, |said| said.last + 1)))
            }
            None => Ok((next, from)),
        }
    }

    fn keep(&self, token: usize, said: &[Said], timed: &mut [Vec<Option<TimedWord>>]) {
        for (owner, said) in self.text.owners[token..].iter().zip(said) {
            if let Some((segment, word)) = *owner {
                timed[segment][word].get_or_insert_default().add(said);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_that_follow_each_other_are_one_text_and_simultaneous_ones_are_two() {
        // Margins of 25 frames stand on both sides.
        let spans = [0..150, 100..300, 250..400, 110..200, 0..0];
        assert_eq!(lanes(&spans, 50), [vec![0, 1, 2], vec![3]]);
        assert_eq!(lanes(&[], 50), Vec::<Vec<usize>>::new());
    }
}
