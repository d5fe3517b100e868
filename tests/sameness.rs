//! When two runs of one request gave the same transcript.

use serde_json::{Value, json};

/// What must not depend on how the work was shared out.
pub fn result(job: &Value) -> Value {
    json!([
        job["text"],
        job["segments"],
        job["speakers"],
        job["language_code"],
        job["warnings"]
    ])
}

/// Whether two results are equal but for times that differ by at most `tolerance`. Probabilities, and tokens, of which some
/// are times, are not compared.
pub fn same(a: &Value, b: &Value, tolerance: f64) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() <= tolerance
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b, tolerance))
        }
        (Value::Object(a), Value::Object(b)) => {
            let compared = |key: &str| {
                !(key.ends_with("confidence") || ["tokens", "avg_logprob"].contains(&key))
            };
            a.len() == b.len()
                && a.iter()
                    .filter(|(key, _)| compared(key))
                    .all(|(key, value)| {
                        b.get(key)
                            .is_some_and(|other| same(value, other, tolerance))
                    })
        }
        _ => a == b,
    }
}

/// What it does to an aligned time that a cut ends the aligner's window elsewhere, and an int8 activation has the scale of
/// another window: up to four frames.
pub const FRAMES: f64 = 0.085;
