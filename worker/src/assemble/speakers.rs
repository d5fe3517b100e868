//! Gives words and segments their speakers, from turns that overlap and are not cut where segments are.
//!
//! A word belongs to the speaker whose turns cover most of it; the last word of a sentence to who speaks when it begins,
//! because its end often runs into the answer; a word in no turn to the nearest one. A segment is split where the speaker
//! changes. A single word between two of somebody else's is more often a slip of the clock than an interjection, so it
//! stays with its neighbour, unless it is a sentence of its own.

use dalston_schema::transcript::{SpeakerTurn, TranscriptSegment, Word};

use super::milliseconds;
use super::text::word_places;

/// Turns shorter than this go to their neighbour, seconds.
const SHORTEST_TURN: f64 = 0.25;
/// Overlaps closer than this are the same, seconds.
const SAME: f64 = 0.005;
/// Fewest words of a part of a segment.
const FEWEST_WORDS: usize = 2;

/// Splits segments by speaker. Without turns they stay as they are.
#[must_use]
pub fn assign(segments: Vec<TranscriptSegment>, turns: &[SpeakerTurn]) -> Vec<TranscriptSegment> {
    let turns = Turns::settle(turns);
    if turns.all.is_empty() {
        return segments;
    }
    let mut last = None;
    segments
        .into_iter()
        .flat_map(|segment| split(segment, &turns, &mut last))
        .collect()
}

/// Turns in order of start, short ones absorbed and neighbours of one speaker joined.
struct Turns {
    all: Vec<SpeakerTurn>,
    /// For each turn the one among it and those before that ends last.
    last_to_end: Vec<usize>,
}

impl Turns {
    fn settle(turns: &[SpeakerTurn]) -> Self {
        let mut sorted: Vec<SpeakerTurn> = turns
            .iter()
            .filter(|turn| turn.end > turn.start)
            .cloned()
            .collect();
        sorted.sort_by(|a, b| a.start.total_cmp(&b.start));
        let all = joined(absorbed(sorted));
        let mut last_to_end: Vec<usize> = Vec::with_capacity(all.len());
        for (index, turn) in all.iter().enumerate() {
            let before = last_to_end.last().copied().unwrap_or(index);
            let later = if turn.end >= all[before].end {
                index
            } else {
                before
            };
            last_to_end.push(later);
        }
        Self { all, last_to_end }
    }

    /// The turn of a word; there is one as soon as there are turns.
    fn of(&self, word: &Word, last: Option<&str>) -> usize {
        let ends_sentence = word
            .text
            .trim_end()
            .ends_with(['.', '?', '!', '。', '？', '！']);
        let onset = (word.start, word.start + SAME);
        let found = ends_sentence
            .then(|| self.covering(onset, last))
            .flatten()
            .or_else(|| self.covering((word.start, word.end.max(word.start + SAME)), last));
        found.unwrap_or_else(|| self.nearest(word))
    }

    /// The turn that covers most of a stretch; of equals that of the `last` speaker, else the one that began first.
    fn covering(&self, (start, end): (f64, f64), last: Option<&str>) -> Option<usize> {
        let from = self
            .last_to_end
            .partition_point(|&index| self.all[index].end <= start);
        let to = self.all.partition_point(|turn| turn.start < end);
        let mut best: Option<(usize, f64)> = None;
        for index in from..to.max(from) {
            let turn = &self.all[index];
            let overlap = turn.end.min(end) - turn.start.max(start);
            if overlap <= 0.0 {
                continue;
            }
            let better = best.is_none_or(|(chosen, most)| {
                overlap > most + SAME
                    || (overlap > most - SAME
                        && last == Some(turn.speaker.as_str())
                        && last != Some(self.all[chosen].speaker.as_str()))
            });
            if better {
                best = Some((index, overlap));
            }
        }
        best.map(|(index, _)| index)
    }

    fn nearest(&self, word: &Word) -> usize {
        let after = self.all.partition_point(|turn| turn.start < word.end);
        let before = after.checked_sub(1).map(|index| self.last_to_end[index]);
        let distance = |index: usize| {
            let turn = &self.all[index];
            (turn.start - word.end).max(word.start - turn.end).max(0.0)
        };
        let next = (after < self.all.len()).then_some(after);
        before
            .into_iter()
            .chain(next)
            .min_by(|&a, &b| distance(a).total_cmp(&distance(b)))
            .unwrap_or(0)
    }
}

/// Gives the time of too short turns to the nearest other.
fn absorbed(turns: Vec<SpeakerTurn>) -> Vec<SpeakerTurn> {
    let long = |turn: &SpeakerTurn| turn.end - turn.start >= SHORTEST_TURN;
    if !turns.iter().any(long) {
        return turns;
    }
    let (mut kept, short): (Vec<_>, Vec<_>) = turns.into_iter().partition(long);
    for turn in short {
        let after = kept.partition_point(|other| other.start < turn.start);
        let gap = |other: &SpeakerTurn| {
            (other.start - turn.end)
                .max(turn.start - other.end)
                .max(0.0)
        };
        let near = after.saturating_sub(1)..(after + 1).min(kept.len());
        let nearest = near.min_by(|&a, &b| gap(&kept[a]).total_cmp(&gap(&kept[b])));
        if let Some(index) = nearest {
            kept[index].start = kept[index].start.min(turn.start);
            kept[index].end = kept[index].end.max(turn.end);
        }
    }
    kept.sort_by(|a, b| a.start.total_cmp(&b.start));
    kept
}

/// Joins turns of one speaker between which nobody else begins to speak.
fn joined(turns: Vec<SpeakerTurn>) -> Vec<SpeakerTurn> {
    let mut joined: Vec<SpeakerTurn> = Vec::with_capacity(turns.len());
    for turn in turns {
        match joined.last_mut() {
            Some(last) if last.speaker == turn.speaker => {
                let weight = |turn: &SpeakerTurn| turn.end - turn.start;
                let (a, b) = (weight(last), weight(&turn));
                last.confidence = match (last.confidence, turn.confidence) {
                    (Some(x), Some(y)) if a + b > 0.0 => Some((x * a + y * b) / (a + b)),
                    (known, other) => known.or(other),
                };
                last.end = last.end.max(turn.end);
            }
            _ => joined.push(turn),
        }
    }
    joined
}

/// Words of one speaker, `from..to` of their segment.
struct Part {
    speaker: String,
    from: usize,
    to: usize,
}

fn split(
    mut segment: TranscriptSegment,
    turns: &Turns,
    last: &mut Option<String>,
) -> Vec<TranscriptSegment> {
    let found = segment.words.take().filter(|words| !words.is_empty());
    let has_words = found.is_some();
    let words = found.unwrap_or_else(|| estimate_words(&segment));
    if words.is_empty() {
        return vec![segment];
    }
    let mut chosen = Vec::with_capacity(words.len());
    for word in &words {
        let turn = turns.of(word, last.as_deref());
        *last = Some(turns.all[turn].speaker.clone());
        chosen.push(turn);
    }
    let parts = parts(&words, &chosen, turns);
    *last = parts.last().map(|part| part.speaker.clone());
    let confidence = |part: &Part| {
        let known: Vec<f64> = chosen[part.from..part.to]
            .iter()
            .map(|&turn| &turns.all[turn])
            .filter(|turn| turn.speaker == part.speaker)
            .filter_map(|turn| turn.confidence)
            .collect();
        // Words that went to a neighbour speak against it.
        (!known.is_empty())
            .then(|| milliseconds(known.iter().sum::<f64>() / (part.to - part.from) as f64))
    };
    let places = word_places(&segment.text, &words);
    let count = parts.len();
    let whole_text = std::mem::take(&mut segment.text);
    // Tokens are those of the whole segment.
    let tokens = segment.tokens.take().filter(|_| count == 1);
    let mut words = words.into_iter();
    parts
        .iter()
        .enumerate()
        .map(|(index, part)| {
            // The parts follow each other without a gap.
            let own: Vec<Word> = words
                .by_ref()
                .take(part.to - part.from)
                .map(|word| Word {
                    speaker: Some(part.speaker.clone()),
                    ..word
                })
                .collect();
            let text = if count == 1 {
                whole_text.clone()
            } else {
                let from = if index == 0 { 0 } else { places[part.from] };
                let to = places.get(part.to).copied().unwrap_or(whole_text.len());
                whole_text[from..to].trim().to_owned()
            };
            TranscriptSegment {
                // The outer ends stay: a segment may reach beyond its words.
                start: if index == 0 {
                    segment.start
                } else {
                    own[0].start
                },
                end: if index + 1 == count {
                    segment.end
                } else {
                    own[own.len() - 1].end.max(own[0].start)
                },
                text,
                speaker: Some(part.speaker.clone()),
                speaker_confidence: confidence(part),
                words: has_words.then_some(own),
                tokens: tokens.clone(),
                ..segment.clone()
            }
        })
        .collect()
}

fn parts(words: &[Word], chosen: &[usize], turns: &Turns) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for (index, &turn) in chosen.iter().enumerate() {
        let speaker = &turns.all[turn].speaker;
        match parts.last_mut() {
            Some(part) if part.speaker == *speaker => part.to = index + 1,
            _ => parts.push(Part {
                speaker: speaker.clone(),
                from: index,
                to: index + 1,
            }),
        }
    }
    let ends = |index: usize| words[index].text.ends_with(['.', '?', '!']);
    let is_sentence = |part: &Part| ends(part.to - 1) && (part.from == 0 || ends(part.from - 1));
    while parts.len() > 1
        && let Some(index) = parts
            .iter()
            .position(|part| part.to - part.from < FEWEST_WORDS && !is_sentence(part))
    {
        let into = if index == 0 { 1 } else { index - 1 };
        let small = parts.remove(index);
        let into = if index == 0 { into - 1 } else { into };
        parts[into].from = parts[into].from.min(small.from);
        parts[into].to = parts[into].to.max(small.to);
        if into + 1 < parts.len() && parts[into].speaker == parts[into + 1].speaker {
            parts[into].to = parts.remove(into + 1).to;
        }
    }
    parts
}

/// The words of a segment without word times, each with the share of its time that its letters have.
fn estimate_words(segment: &TranscriptSegment) -> Vec<Word> {
    let letters: usize = segment
        .text
        .split_whitespace()
        .map(|word| word.chars().count())
        .sum();
    let seconds = (segment.end - segment.start) / (letters.max(1)) as f64;
    let mut start = segment.start;
    segment
        .text
        .split_whitespace()
        .map(|text| {
            let end = start + seconds * text.chars().count() as f64;
            let word = Word {
                text: text.to_owned(),
                start,
                end,
                ..Word::default()
            };
            start = end;
            word
        })
        .collect()
}

#[cfg(test)]
mod tests;
