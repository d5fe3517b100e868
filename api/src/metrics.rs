//! `/metrics` in Prometheus text: this process's counters and histograms, what all workers together have measured, and
//! the queues as the database sees them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::OnceLock;

use dalston_schema::db::measures::Bucket;
use dalston_schema::db::queue::QueueDepth;
use dalston_schema::db::{measures, queue, workers};
use dalston_schema::measure::Measure;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use poem::http::StatusCode;
use poem::web::Data;
use poem::{IntoResponse, Response, handler};
use serde_json::Value;

use crate::error::ApiError;
use crate::state::App;

/// Upper bounds of the request duration's buckets, in seconds.
const DURATIONS: [f64; 12] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0,
];

static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Starts to collect; once per process, later calls do nothing.
pub fn install() {
    RECORDER.get_or_init(|| {
        PrometheusBuilder::new()
            .set_buckets_for_metric(
                Matcher::Full("dalston_gateway_request_duration_seconds".to_owned()),
                &DURATIONS,
            )
            .and_then(PrometheusBuilder::install_recorder)
            .inspect_err(|error| tracing::warn!(%error, "metrics are not collected"))
            .ok()
    });
}

/// Folds what was collected since the last call; called every few seconds so that memory stays flat between scrapes.
pub fn upkeep() {
    if let Some(Some(recorder)) = RECORDER.get() {
        recorder.run_upkeep();
    }
}

/// `GET /metrics`.
#[handler]
pub async fn endpoint(app: Data<&App>) -> Result<Response, ApiError> {
    if !app.config.metrics {
        return Err(ApiError::not_found("Metrics disabled"));
    }
    let mut text = match RECORDER.get() {
        Some(Some(recorder)) => recorder.render(),
        _ => String::new(),
    };
    match measures::list(&app.pool).await {
        Ok(measured) => worker_measures(&mut text, &measured),
        Err(error) => {
            tracing::warn!(%error, "metrics without workers: the database did not answer");
        }
    }
    match queue::depths(&app.pool).await {
        Ok(depths) => queues(&mut text, &depths),
        Err(error) => tracing::warn!(%error, "metrics without queues: the database did not answer"),
    }
    if let Ok(workers) = workers::list(&app.pool).await {
        let live = workers.iter().filter(|worker| worker.status == "live");
        gauge(
            &mut text,
            "dalston_workers_live",
            "Workers that answered within the last minute.",
            [(String::new(), live.count() as f64)],
        );
    }
    Ok(text
        .with_content_type("text/plain; version=0.0.4; charset=utf-8")
        .with_status(StatusCode::OK)
        .into_response())
}

fn queues(text: &mut String, depths: &[QueueDepth]) {
    let labels = |depth: &QueueDepth| {
        format!(
            "{{stage=\"{}\",engine_id=\"{}\",model=\"{}\"}}",
            escape(&depth.stage),
            escape(&depth.engine),
            escape(&depth.model)
        )
    };
    gauge(
        text,
        "dalston_queue_depth",
        "Tasks that wait: ready, scheduled for another attempt, or held at their tenant's cap.",
        depths.iter().map(|depth| {
            let waiting = depth.ready + depth.scheduled + depth.held;
            (labels(depth), waiting as f64)
        }),
    );
    gauge(
        text,
        "dalston_queue_tasks_running",
        "Tasks being run.",
        depths
            .iter()
            .map(|depth| (labels(depth), depth.running as f64)),
    );
    gauge(
        text,
        "dalston_queue_oldest_task_age_seconds",
        "How long the oldest ready task has waited.",
        depths
            .iter()
            .map(|depth| (labels(depth), depth.oldest_wait_seconds.unwrap_or(0.0))),
    );
}

/// What the workers have measured. A measure that nobody has taken yet is left out.
fn worker_measures(text: &mut String, measured: &[Bucket]) {
    for measure in Measure::ALL {
        let name = measure.name();
        let buckets = measured.iter().filter(|bucket| bucket.measure == name);
        let kind = if measure.bounds().is_empty() {
            "counter"
        } else {
            "histogram"
        };
        let mut of_labels: BTreeMap<String, Vec<&Bucket>> = BTreeMap::new();
        for bucket in buckets {
            let labels = labels(&bucket.labels);
            of_labels.entry(labels).or_default().push(bucket);
        }
        if of_labels.is_empty() {
            continue;
        }
        let help = measure.help();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "# HELP dalston_{name} {help}\n# TYPE dalston_{name} {kind}"
        );
        for (labels, buckets) in of_labels {
            if kind == "counter" {
                let n: i64 = buckets.iter().map(|bucket| bucket.n).sum();
                let _ = writeln!(text, "dalston_{name}{} {n}", braced(&labels));
            } else {
                histogram(text, measure, &labels, &buckets);
            }
        }
    }
}

fn histogram(text: &mut String, measure: Measure, labels: &str, buckets: &[&Bucket]) {
    let name = measure.name();
    let up_to = |bound: f64| -> i64 {
        let within = buckets.iter().filter(|bucket| bucket.bound <= bound);
        within.map(|bucket| bucket.n).sum()
    };
    let comma = if labels.is_empty() { "" } else { "," };
    for bound in measure.bounds() {
        let n = up_to(*bound);
        let _ = writeln!(
            text,
            "dalston_{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {n}"
        );
    }
    let n = up_to(f64::INFINITY);
    let sum: f64 = buckets.iter().map(|bucket| bucket.total).sum();
    let braced = braced(labels);
    let _ = writeln!(
        text,
        "dalston_{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {n}\ndalston_{name}_sum{braced} {sum}\ndalston_{name}_count{braced} {n}"
    );
}

/// Labels as they stand between braces.
fn labels(labels: &Value) -> String {
    let pairs = labels.as_object().into_iter().flatten();
    let pairs = pairs.map(|(name, value)| {
        let value = escape(value.as_str().unwrap_or_default());
        format!("{name}=\"{value}\"")
    });
    pairs.collect::<Vec<_>>().join(",")
}

fn braced(labels: &str) -> String {
    if labels.is_empty() {
        String::new()
    } else {
        format!("{{{labels}}}")
    }
}

fn gauge(
    text: &mut String,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (String, f64)>,
) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
    for (labels, value) in values {
        let _ = writeln!(text, "{name}{labels} {value}");
    }
}

fn escape(label: &str) -> String {
    label
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_workers_measured_is_prometheus_text() {
        let bucket = |measure: Measure, labels: Value, bound, n, total| Bucket {
            measure: measure.name().to_owned(),
            labels,
            bound,
            n,
            total,
        };
        let merge = json!({"stage": "merge"});
        let measured = [
            bucket(Measure::QueueWait, merge.clone(), 0.1, 2, 0.15),
            bucket(Measure::QueueWait, merge, f64::INFINITY, 1, 4000.0),
            bucket(Measure::TasksTimedOut, json!({}), f64::INFINITY, 3, 3.0),
        ];
        let mut text = String::new();
        worker_measures(&mut text, &measured);
        for line in [
            "# TYPE dalston_engine_queue_wait_seconds histogram",
            "dalston_engine_queue_wait_seconds_bucket{stage=\"merge\",le=\"0.05\"} 0",
            "dalston_engine_queue_wait_seconds_bucket{stage=\"merge\",le=\"0.1\"} 2",
            "dalston_engine_queue_wait_seconds_bucket{stage=\"merge\",le=\"1800\"} 2",
            "dalston_engine_queue_wait_seconds_bucket{stage=\"merge\",le=\"+Inf\"} 3",
            "dalston_engine_queue_wait_seconds_sum{stage=\"merge\"} 4000.15",
            "dalston_engine_queue_wait_seconds_count{stage=\"merge\"} 3",
            "# TYPE dalston_orchestrator_tasks_timed_out_total counter",
            "dalston_orchestrator_tasks_timed_out_total 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
