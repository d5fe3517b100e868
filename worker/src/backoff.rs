//! Waits between attempts that fail: doubling, with jitter, so that workers which lost the same server do not come back
//! in step.

use std::time::Duration;

use uuid::Uuid;

/// A growing wait.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// Starts at `first` and doubles up to `longest`.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            failures: 0,
        }
    }

    /// Whether the last attempt failed.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// The next wait: half of the current step plus a random part of the other half.
    pub fn next_wait(&mut self) -> Duration {
        let step = self
            .first
            .saturating_mul(2_u32.saturating_pow(self.failures.min(16)))
            .min(self.longest);
        self.failures = self.failures.saturating_add(1);
        step.mul_f64(0.5 + 0.5 * random_share())
    }

    /// Starts over, after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A duration with up to a quarter more, at random.
#[must_use]
pub fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(1.0 + 0.25 * random_share())
}

/// A random number 0–1 from the random part of an identifier.
fn random_share() -> f64 {
    f64::from(Uuid::new_v4().as_fields().0) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_start_over() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, 5 * second);
        for step in [1, 2, 4, 5, 5] {
            let wait = backoff.next_wait();
            assert!(
                wait >= second * step / 2 && wait <= second * step,
                "{wait:?}"
            );
        }
        assert!(backoff.is_failing());
        backoff.reset();
        assert!(backoff.next_wait() <= second);
    }

    #[test]
    fn many_failures_do_not_overflow() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        for _ in 0..100 {
            assert!(backoff.next_wait() <= Duration::from_secs(5));
        }
    }
}
