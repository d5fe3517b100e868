//! A part of a task's work, for tasks that do several things one after the other: what is reported as a share of the part
//! becomes a share of the whole.

use crate::lease::ProgressMeter;

/// A part of a task's work; clones report to the same task.
#[derive(Clone, Debug)]
pub struct Portion {
    meter: ProgressMeter,
    from: f64,
    width: f64,
}

impl Portion {
    /// All of a task's work.
    #[must_use]
    pub fn whole(meter: &ProgressMeter) -> Self {
        Self {
            meter: meter.clone(),
            from: 0.0,
            width: 1.0,
        }
    }

    /// The part that begins at the share `from` of this one and is `width` of it wide.
    #[must_use]
    pub fn part(&self, from: f64, width: f64) -> Self {
        Self {
            meter: self.meter.clone(),
            from: self.from + self.width * from,
            width: self.width * width,
        }
    }

    /// Says how many seconds of audio are done, and of how many.
    pub fn report(&self, done_seconds: f64, total_seconds: f64) {
        if total_seconds > 0.0 {
            let share = (done_seconds / total_seconds).clamp(0.0, 1.0);
            self.meter.report(self.from + self.width * share, 1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_parts_add_up_to_the_whole() {
        let meter = ProgressMeter::default();
        let whole = Portion::whole(&meter);
        let second = whole.part(0.5, 0.5);
        whole.part(0.0, 0.5).report(10.0, 10.0);
        assert!((meter.get().done_seconds - 0.5).abs() < 1e-9);
        second.part(0.5, 0.5).report(30.0, 60.0);
        assert!((meter.get().done_seconds - 0.875).abs() < 1e-9);
        second.report(1.0, 0.0);
        second.report(9.0, 3.0);
        assert!((meter.get().done_seconds - 1.0).abs() < 1e-9);
    }
}
