//! What this worker measures. It is collected here and handed to the database with the heartbeats, where the numbers of
//! all workers come together, so that one `/metrics` tells of the whole fleet and a worker needs no port.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dalston_schema::Stage;
use dalston_schema::db::measures::{self, Bucket};
use dalston_schema::db::{DbError, PgPool};
use dalston_schema::measure::Measure;
use serde_json::{Map, Value};

/// Of what something is measured: names and values.
type Labels<'a> = &'a [(&'static str, &'a str)];

/// What was measured since it was last handed in. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Measures(Arc<Mutex<Vec<Bucket>>>);

impl Measures {
    /// Notes one value.
    pub fn observe(&self, measure: Measure, labels: Labels<'_>, value: f64) {
        self.add(bucket(measure, labels, 1, value));
    }

    /// Notes how long the work of a stage took against the length of its audio.
    pub fn observe_speed(&self, stage: Stage, model: &str, audio_seconds: f64, seconds: f64) {
        if audio_seconds > 0.0 {
            let labels = [("stage", stage.as_str()), ("model", model)];
            self.observe(Measure::RealtimeFactor, &labels, seconds / audio_seconds);
        }
    }

    /// Counts `n` more.
    pub fn count(&self, measure: Measure, labels: Labels<'_>, n: i64) {
        self.add(bucket(measure, labels, n, n as f64));
    }

    /// Hands everything in. What the database does not take is kept for the next time.
    ///
    /// # Errors
    /// Database trouble.
    pub async fn hand_in(&self, pool: &PgPool) -> Result<(), DbError> {
        let measured = std::mem::take(&mut *self.buckets());
        if measured.is_empty() {
            return Ok(());
        }
        let added = measures::add(pool, &measured).await;
        if added.is_err() {
            for bucket in measured {
                self.add(bucket);
            }
        }
        added
    }

    fn add(&self, new: Bucket) {
        let mut buckets = self.buckets();
        let same = |known: &&mut Bucket| {
            known.measure == new.measure && known.bound == new.bound && known.labels == new.labels
        };
        match buckets.iter_mut().find(same) {
            Some(known) => {
                known.n += new.n;
                known.total += new.total;
            }
            None => buckets.push(new),
        }
    }

    fn buckets(&self) -> MutexGuard<'_, Vec<Bucket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bucket(measure: Measure, labels: Labels<'_>, n: i64, value: f64) -> Bucket {
    let labels: Map<String, Value> = labels
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Value::from(*value)))
        .collect();
    Bucket {
        measure: measure.name().to_owned(),
        labels: labels.into(),
        bound: measure.bucket(value),
        n,
        total: value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_bucket_come_together() {
        let measures = Measures::default();
        for (stage, value) in [
            ("merge", 0.02),
            ("merge", 0.04),
            ("align", 0.02),
            ("merge", 9e9),
        ] {
            measures.observe(Measure::QueueWait, &[("stage", stage)], value);
        }
        measures.count(Measure::TasksTimedOut, &[], 3);
        let found: Vec<(f64, i64)> = measures.buckets().iter().map(|b| (b.bound, b.n)).collect();
        let last = f64::INFINITY;
        assert_eq!(found, [(0.05, 2), (0.05, 1), (last, 1), (last, 3)]);
    }
}
