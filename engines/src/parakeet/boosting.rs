//! Words to listen for, by shallow fusion: a token that spells a phrase on gets a bonus for each of its letters.
//!
//! Phrases are kept as a trie of letters, not of tokens: whichever pieces the model spells a name with, they walk the
//! same path. A phrase is tried where its first piece is nearly as good as the best; the trial may spend on worse
//! tokens no more than the whole phrase would earn, and is taken back to where it began when the phrase does not come:
//! a partial match leaves no trace in the text (beam searches subtract its bonus for the same end).

use std::collections::HashMap;

use super::vocabulary::Vocabulary;

/// Natural log-probability that each letter of a phrase is worth.
const BONUS: f32 = 0.5;
/// How much worse than the best the first piece of a phrase may be. More costs trials that come to nothing.
const START_ALLOWANCE: f32 = 3.0;
/// Most a phrase may cost, however long it is: beyond it the audio says something else.
const MOST: f32 = 8.0;
/// Steps without a piece of the phrase after which a trial has failed: two seconds of encoder frames.
const PATIENCE: usize = 25;

/// A phrase reached so far.
#[derive(Debug, Default)]
struct Node {
    children: Vec<(char, usize)>,
    /// Letters from the root.
    depth: usize,
    /// Letters of the longest phrase through here.
    longest: usize,
    is_end: bool,
    /// Pieces that lead on, and where to.
    pieces: Vec<(usize, usize)>,
}

/// Phrases to listen for, spelt with the pieces of a vocabulary.
#[derive(Debug)]
pub(crate) struct Phrases {
    nodes: Vec<Node>,
    /// By piece: whether a phrase may end before it, since it does not go on with the same word.
    starts_anew: Vec<bool>,
}

/// An attempt to hear a phrase.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Trial {
    node: usize,
    /// What its tokens were worse than the best ones.
    spent: f32,
    has_deviated: bool,
    n_idle: usize,
}

/// What a trial says about one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// To take this token and go on.
    Take(usize),
    /// That it has ended, and what was taken stands.
    Over,
    /// That the phrase has not come: everything since the beginning has to be taken back.
    Failed,
}

impl Phrases {
    /// Phrases with at least one letter the vocabulary can spell; `None` when there is none.
    pub(crate) fn new(phrases: &[String], vocabulary: &Vocabulary) -> Option<Self> {
        let mut nodes = vec![Node::default()];
        for phrase in phrases {
            let words: Vec<&str> = phrase.split_whitespace().collect();
            if words.is_empty() {
                continue;
            }
            let spelling = format!(" {}", words.join(" "));
            let length = spelling.chars().count();
            let mut at = 0;
            for letter in spelling.chars() {
                nodes[at].longest = nodes[at].longest.max(length);
                at = match child(&nodes[at], letter) {
                    Some(next) => next,
                    None => {
                        let depth = nodes[at].depth + 1;
                        nodes.push(Node {
                            depth,
                            ..Node::default()
                        });
                        let next = nodes.len() - 1;
                        nodes[at].children.push((letter, next));
                        next
                    }
                };
            }
            nodes[at].longest = nodes[at].longest.max(length);
            nodes[at].is_end = true;
        }
        let mut by_letter: HashMap<char, Vec<(usize, &str)>> = HashMap::new();
        for (id, piece) in vocabulary.text_pieces() {
            if let Some(first) = piece.chars().next() {
                by_letter
                    .entry(first)
                    .or_default()
                    .push((id as usize, piece));
            }
        }
        for at in 0..nodes.len() {
            let firsts: Vec<char> = nodes[at]
                .children
                .iter()
                .map(|(letter, _)| *letter)
                .collect();
            let candidates = firsts
                .iter()
                .filter_map(|first| by_letter.get(first))
                .flatten();
            let pieces = candidates
                .filter_map(|(id, piece)| {
                    let mut letters = piece.chars();
                    let to = letters.try_fold(at, |at, letter| child(&nodes[at], letter))?;
                    Some((*id, to))
                })
                .collect();
            nodes[at].pieces = pieces;
        }
        let starts_anew = (0..=vocabulary.blank() as u32)
            .map(|id| {
                vocabulary
                    .piece(id)
                    .chars()
                    .next()
                    .is_none_or(|c| !c.is_alphanumeric() && c != '\'')
            })
            .collect();
        let any = !nodes[0].pieces.is_empty();
        any.then_some(Self { nodes, starts_anew })
    }

    /// Most that a trial may have cost at a node: what the longest phrase through it earns, or the one that ends there.
    fn budget(&self, node: usize) -> f32 {
        let Node {
            is_end,
            depth,
            longest,
            ..
        } = self.nodes[node];
        (BONUS * if is_end { depth } else { longest } as f32).min(MOST)
    }

    /// The piece of those that lead on from a node with the best score, its bonus counted: `(score, piece, to)`.
    fn best_piece(
        &self,
        node: usize,
        scores: &[f32],
        without: &[usize],
    ) -> Option<(f32, usize, usize)> {
        let from = &self.nodes[node];
        from.pieces
            .iter()
            .filter(|(piece, _)| !without.contains(piece))
            .map(|&(piece, to)| {
                let letters = self.nodes[to].depth - from.depth;
                (scores[piece] + BONUS * letters as f32, piece, to)
            })
            .max_by(|a, b| a.0.total_cmp(&b.0))
    }

    /// A token that leads on from a node, and where to.
    fn leading_on(&self, node: usize, token: usize, without: &[usize]) -> Option<(usize, usize)> {
        let mut pieces = self.nodes[node].pieces.iter();
        pieces
            .find(|(piece, _)| *piece == token && !without.contains(piece))
            .copied()
    }

    /// Begins a trial where the first piece of a phrase is nearly as good as the `best` token. Answers it with the
    /// piece. Tokens in `without` cannot begin one.
    pub(crate) fn begin(
        &self,
        scores: &[f32],
        best: usize,
        without: &[usize],
    ) -> Option<(Trial, usize)> {
        let (piece, node) = self.leading_on(0, best, without).or_else(|| {
            let (_, piece, node) = self.best_piece(0, scores, without)?;
            Some((piece, node))
        })?;
        let cost = scores[best] - scores[piece];
        (cost <= START_ALLOWANCE.min(self.budget(node))).then_some((
            Trial {
                node,
                spent: cost,
                has_deviated: piece != best,
                n_idle: 0,
            },
            piece,
        ))
    }
}

fn child(node: &Node, letter: char) -> Option<usize> {
    let found = node.children.iter().find(|(known, _)| *known == letter);
    found.map(|(_, to)| *to)
}

impl Trial {
    /// Chooses the token of one step. `idle` are tokens that say nothing: the blank, and a repetition in CTC.
    pub(crate) fn step(
        &mut self,
        phrases: &Phrases,
        scores: &[f32],
        best: usize,
        idle: &[usize],
    ) -> Step {
        if let Some((_, to)) = phrases.leading_on(self.node, best, idle) {
            self.node = to;
            self.n_idle = 0;
            return Step::Take(best);
        }
        let failed = if self.has_deviated {
            Step::Failed
        } else {
            Step::Over
        };
        let rests = idle.contains(&best);
        if phrases.nodes[self.node].is_end {
            return match (rests, phrases.starts_anew[best]) {
                (true, _) => Step::Take(best),
                (false, true) => Step::Over,
                (false, false) => failed,
            };
        }
        let resting = idle
            .iter()
            .copied()
            .max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        let piece = phrases.best_piece(self.node, scores, idle);
        let (token, to) = match (resting, piece) {
            (Some(resting), Some((score, ..))) if scores[resting] > score => (resting, self.node),
            (_, Some((_, piece, to))) => (piece, to),
            (Some(resting), None) => (resting, self.node),
            (None, None) => return failed,
        };
        self.n_idle = if to == self.node { self.n_idle + 1 } else { 0 };
        self.spent += scores[best] - scores[token];
        if self.spent > phrases.budget(to) || self.n_idle > PATIENCE {
            return failed;
        }
        self.has_deviated |= token != best;
        self.node = to;
        Step::Take(token)
    }

    /// Whether what was heard may stand when the audio ends.
    pub(crate) fn may_stand_at_end(&self, phrases: &Phrases) -> bool {
        phrases.nodes[self.node].is_end || !self.has_deviated
    }
}
