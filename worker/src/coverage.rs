//! Which detected speech no segment covers. Interval arithmetic on seconds of audio; intervals are `[start, end)`.

/// A stretch of audio, `(start, end)` in seconds.
pub type Interval = (f64, f64);

/// Gaps shorter than this are the breath between a speech region's padding and a segment's first word, seconds.
const SHORTEST_GAP: f64 = 1.0;
/// Regions named in one warning.
const NAMED: usize = 500;

/// Sorts intervals and joins those that touch or overlap; empty and reversed ones vanish.
#[must_use]
pub fn union(intervals: impl IntoIterator<Item = Interval>) -> Vec<Interval> {
    let mut sorted: Vec<Interval> = intervals
        .into_iter()
        .filter(|(start, end)| end > start)
        .collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut joined: Vec<Interval> = Vec::with_capacity(sorted.len());
    for (start, end) in sorted {
        match joined.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => joined.push((start, end)),
        }
    }
    joined
}

/// Total length of intervals that do not overlap, in seconds.
#[must_use]
pub fn total(intervals: &[Interval]) -> f64 {
    intervals.iter().map(|(start, end)| end - start).sum()
}

/// What of `from` lies in none of `cover`. Both must come from [`union`].
#[must_use]
pub fn subtract(from: &[Interval], cover: &[Interval]) -> Vec<Interval> {
    let mut left = Vec::new();
    let mut first = 0;
    for &(start, end) in from {
        let mut at = start;
        while first < cover.len() && cover[first].1 <= start {
            first += 1;
        }
        for &(cover_start, cover_end) in &cover[first..] {
            if cover_start >= end {
                break;
            }
            if cover_start > at {
                left.push((at, cover_start));
            }
            at = at.max(cover_end);
        }
        if at < end {
            left.push((at, end));
        }
    }
    left
}

/// The warning about speech that no segment covers, naming every stretch of at least a second; `None` when there is none.
#[must_use]
pub fn warning(speech: &[Interval], segments: &[Interval]) -> Option<String> {
    let speech = union(speech.iter().copied());
    let missed: Vec<Interval> = subtract(&speech, &union(segments.iter().copied()))
        .into_iter()
        .filter(|(start, end)| end - start >= SHORTEST_GAP)
        .collect();
    if missed.is_empty() {
        return None;
    }
    let seconds = total(&missed);
    let mut named = missed
        .iter()
        .take(NAMED)
        .map(|(start, end)| format!("{start:.1}-{end:.1}s"))
        .collect::<Vec<_>>()
        .join(", ");
    if missed.len() > NAMED {
        named.push_str(&format!(" and {} more", missed.len() - NAMED));
    }
    Some(format!(
        "{seconds:.1}s of detected speech was not transcribed (regions: {named})"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_union_sorts_joins_and_drops_empty_intervals() {
        let joined = union([(5.0, 6.0), (1.0, 2.0), (2.0, 3.0), (4.0, 4.0), (5.5, 7.0)]);
        assert_eq!(joined, vec![(1.0, 3.0), (5.0, 7.0)]);
    }

    #[test]
    fn subtraction_keeps_exactly_what_is_not_covered() {
        let check = |from: &[Interval], cover: &[Interval], expected: &[Interval]| {
            assert_eq!(subtract(from, cover), expected, "{from:?} minus {cover:?}");
        };
        check(&[(0.0, 10.0)], &[], &[(0.0, 10.0)]);
        check(&[(0.0, 10.0)], &[(0.0, 10.0)], &[]);
        check(
            &[(0.0, 10.0)],
            &[(2.0, 3.0), (5.0, 12.0)],
            &[(0.0, 2.0), (3.0, 5.0)],
        );
        check(
            &[(0.0, 1.0), (2.0, 3.0), (4.0, 5.0)],
            &[(0.5, 4.5)],
            &[(0.0, 0.5), (4.5, 5.0)],
        );
    }

    #[test]
    fn a_warning_names_the_seconds_and_the_regions() {
        let speech = [(0.0, 10.0), (20.0, 24.0)];
        assert_eq!(warning(&speech, &[(0.1, 9.8), (20.0, 24.0)]), None);
        assert_eq!(
            warning(&speech, &[(0.0, 10.0)]).as_deref(),
            Some("4.0s of detected speech was not transcribed (regions: 20.0-24.0s)")
        );
    }

    #[test]
    fn breaths_are_not_worth_a_warning_and_every_longer_gap_is() {
        let segments = [(0.0, 10.0), (10.9, 20.0), (22.0, 100.0)];
        assert_eq!(
            warning(&[(0.0, 100.0)], &segments).as_deref(),
            Some("2.0s of detected speech was not transcribed (regions: 20.0-22.0s)")
        );
        assert_eq!(warning(&[(0.0, 20.0)], &segments), None);
        assert!(warning(&[(0.0, 1.5)], &[]).is_some());
    }
}
