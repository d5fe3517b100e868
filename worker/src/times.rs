//! Times as clients see them.

/// Rounds seconds to three decimals: models count in frames, and what binary fractions add to those is noise.
#[must_use]
pub fn milliseconds(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_binary_fractions_add_is_dropped() {
        assert_eq!(milliseconds(258.876_000_000_000_03), 258.876);
    }
}
