//! `/metrics` in Prometheus text: this process's counters and histograms, and the queues as the database sees them.

use std::fmt::Write;
use std::sync::OnceLock;

use dalston_schema::db::queue::QueueDepth;
use dalston_schema::db::{queue, workers};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use poem::http::StatusCode;
use poem::web::Data;
use poem::{IntoResponse, Response, handler};

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
