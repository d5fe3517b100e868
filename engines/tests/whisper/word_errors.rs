//! Word error rate: the measure of a recogniser.

/// Substitutions, insertions and deletions per reference word, case and punctuation aside.
pub fn word_error_rate(references: &[String], hypotheses: &[String]) -> f64 {
    let (mut errors, mut n_words) = (0, 0);
    for (reference, hypothesis) in references.iter().zip(hypotheses) {
        let (reference, hypothesis) = (words(reference), words(hypothesis));
        errors += distance(&reference, &hypothesis);
        n_words += reference.len();
    }
    errors as f64 / n_words as f64
}

fn words(text: &str) -> Vec<String> {
    let plain: String = text
        .chars()
        .filter(|c| c.is_alphanumeric() || c.is_whitespace() || *c == '\'')
        .collect();
    plain
        .to_lowercase()
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

/// Levenshtein's distance between two sequences of words.
fn distance(a: &[String], b: &[String]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, word) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(word != other);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[test]
fn every_kind_of_error_counts_once() {
    let rate = |a: &str, b: &str| word_error_rate(&[a.to_owned()], &[b.to_owned()]);
    assert_eq!(rate("One two, three.", "one TWO three"), 0.0);
    assert_eq!(rate("one two three four", "one too three four five"), 0.5);
    assert_eq!(rate("one two", ""), 1.0);
}
