//! Diarization error rate (NIST): missed speech, false alarms and confused speakers over the reference's speech, with
//! the mapping of speakers that confuses least. Overlaps are scored, the whole file counts; a collar leaves out the
//! time around every boundary of the reference (its total width, as pyannote.metrics has it).

use std::path::Path;

use dalston_engines::Diarization;

/// A stretch of one speaker, seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    pub start: f64,
    pub end: f64,
    pub speaker: usize,
}

/// The parts of the error, seconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct ErrorRate {
    pub missed: f64,
    pub false_alarm: f64,
    pub confusion: f64,
    pub total: f64,
}

impl ErrorRate {
    pub fn rate(&self) -> f64 {
        (self.missed + self.false_alarm + self.confusion) / self.total
    }
}

pub fn read_rttm(path: &Path) -> Vec<Turn> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut names: Vec<&str> = Vec::new();
    text.lines()
        .map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (start, length): (f64, f64) =
                (fields[3].parse().unwrap(), fields[4].parse().unwrap());
            let speaker = names.iter().position(|name| *name == fields[7]);
            let speaker = speaker.unwrap_or_else(|| {
                names.push(fields[7]);
                names.len() - 1
            });
            Turn {
                start,
                end: start + length,
                speaker,
            }
        })
        .collect()
}

pub fn turns(diarization: &Diarization) -> Vec<Turn> {
    let turns = diarization.turns.iter();
    turns
        .map(|turn| Turn {
            start: turn.start,
            end: turn.end,
            speaker: turn.speaker,
        })
        .collect()
}

/// Who speaks between two neighbouring boundaries.
struct Piece {
    seconds: f64,
    reference: Vec<usize>,
    hypothesis: Vec<usize>,
}

pub fn error_rate(reference: &[Turn], hypothesis: &[Turn], collar: f64) -> ErrorRate {
    let pieces = pieces(reference, hypothesis, collar);
    let n_speakers = |turns: &[Turn]| turns.iter().map(|turn| turn.speaker + 1).max().unwrap_or(0);
    let (n, m) = (n_speakers(reference), n_speakers(hypothesis));
    let mut together = vec![vec![0.0; m]; n];
    for piece in &pieces {
        for &r in &piece.reference {
            for &h in &piece.hypothesis {
                together[r][h] += piece.seconds;
            }
        }
    }
    let mapping = best_mapping(&together, 0, &mut vec![false; m]).1;
    let mut error = ErrorRate::default();
    for piece in &pieces {
        let (spoken, found) = (piece.reference.len(), piece.hypothesis.len());
        let right = |r: &&usize| mapping[**r].is_some_and(|h| piece.hypothesis.contains(&h));
        let correct = piece.reference.iter().filter(right).count();
        error.total += spoken as f64 * piece.seconds;
        error.missed += spoken.saturating_sub(found) as f64 * piece.seconds;
        error.false_alarm += found.saturating_sub(spoken) as f64 * piece.seconds;
        error.confusion += (spoken.min(found) - correct) as f64 * piece.seconds;
    }
    error
}

fn pieces(reference: &[Turn], hypothesis: &[Turn], collar: f64) -> Vec<Piece> {
    let edges = |turns: &[Turn]| -> Vec<f64> {
        turns
            .iter()
            .flat_map(|turn| [turn.start, turn.end])
            .collect()
    };
    let ends = edges(reference);
    let mut all: Vec<f64> = ends.iter().copied().chain(edges(hypothesis)).collect();
    all.extend(
        ends.iter()
            .flat_map(|end| [end - collar / 2.0, end + collar / 2.0]),
    );
    all.sort_by(f64::total_cmp);
    let speaking = |turns: &[Turn], at: f64| -> Vec<usize> {
        let mut speakers: Vec<usize> = turns
            .iter()
            .filter(|turn| turn.start <= at && at < turn.end)
            .map(|turn| turn.speaker)
            .collect();
        speakers.sort_unstable();
        speakers.dedup();
        speakers
    };
    all.windows(2)
        .filter(|edge| edge[1] > edge[0])
        .map(|edge| (f64::midpoint(edge[0], edge[1]), edge[1] - edge[0]))
        .filter(|(middle, _)| ends.iter().all(|end| (end - middle).abs() >= collar / 2.0))
        .map(|(middle, seconds)| Piece {
            seconds,
            reference: speaking(reference, middle),
            hypothesis: speaking(hypothesis, middle),
        })
        .collect()
}

/// The mapping of reference speakers from `at` on with the most time together, by trying all of them.
fn best_mapping(
    together: &[Vec<f64>],
    at: usize,
    taken: &mut Vec<bool>,
) -> (f64, Vec<Option<usize>>) {
    if at == together.len() {
        return (0.0, vec![None; together.len()]);
    }
    let mut best = best_mapping(together, at + 1, taken);
    for h in 0..taken.len() {
        if taken[h] {
            continue;
        }
        taken[h] = true;
        let (seconds, mut mapping) = best_mapping(together, at + 1, taken);
        taken[h] = false;
        if seconds + together[at][h] > best.0 {
            mapping[at] = Some(h);
            best = (seconds + together[at][h], mapping);
        }
    }
    best
}
