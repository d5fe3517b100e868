//! What all workers together have measured; they hand it in, `/metrics` reads it.

use serde_json::Value;

use super::statement::{self, Statement};
use super::{DbError, PgPool};

/// One bucket of a histogram, or a counter.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
pub struct Bucket {
    /// Name of the measure.
    pub measure: String,
    /// Of what, as a JSON object of texts.
    pub labels: Value,
    /// Largest value in it; infinite for the last bucket, and for counters.
    pub bound: f64,
    /// Values in it.
    pub n: i64,
    /// Their sum.
    pub total: f64,
}

/// Adds what was measured.
///
/// # Errors
/// Database trouble only.
pub async fn add(pool: &PgPool, measured: &[Bucket]) -> Result<(), DbError> {
    let measures: Vec<&str> = measured.iter().map(|b| b.measure.as_str()).collect();
    let labels: Vec<&Value> = measured.iter().map(|bucket| &bucket.labels).collect();
    let bounds: Vec<f64> = measured.iter().map(|bucket| bucket.bound).collect();
    let counts: Vec<i64> = measured.iter().map(|bucket| bucket.n).collect();
    let totals: Vec<f64> = measured.iter().map(|bucket| bucket.total).collect();
    statement::run(
        statement::plain("select add_measures($1, $2, $3, $4, $5)")
            .bind(measures)
            .bind(labels)
            .bind(bounds)
            .bind(counts)
            .bind(totals),
        pool,
    )
    .await
}

/// Everything that was measured, in order of measure, labels and bound.
///
/// # Errors
/// Database trouble only.
pub async fn list(pool: &PgPool) -> Result<Vec<Bucket>, DbError> {
    statement::rows(
        "select measure, labels, bound, n, total from measures order by measure, labels, bound",
    )
    .all(pool)
    .await
}
