//! Text while it is being made: what the engine is certain of goes to the job's log, a few times a second, for whoever
//! follows the job.
//!
//! It is a convenience that the result does not hang on: what could not be logged comes with the task's answer, and
//! readers notice the gap.

use std::sync::Arc;
use std::time::Duration;

use dalston_engines::{Segment, Settled};
use dalston_schema::JobId;
use dalston_schema::db::PgPool;
use dalston_schema::db::events::{self, SaidSegment, SaidSegments};
use dalston_schema::task::{ClaimedTask, TranscribeRequest};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::times::milliseconds;

/// Time in which segments are gathered into one entry of the log.
const GATHER: Duration = Duration::from_millis(400);

/// What to hand to the engine, and the writer of the log, which ends once the engine has let go of it and all is written.
#[must_use]
pub fn teller(
    pool: &PgPool,
    task: &ClaimedTask,
    request: &TranscribeRequest,
) -> (Settled, JoinHandle<()>) {
    let (sender, receiver) = unbounded_channel();
    let said = SaidSegments {
        task_id: task.id,
        name: task.name.clone(),
        attempt: task.attempt,
        channel: request.channel,
        chunk: request.chunk.map(|chunk| chunk.index),
        first: 0,
        segments: Vec::new(),
    };
    let writer = tokio::spawn(write(pool.clone(), task.job_id, said, receiver));
    let settled: Settled = Arc::new(move |segments: &[Segment]| {
        let said = segments.iter().map(|segment| SaidSegment {
            start: milliseconds(segment.start),
            end: milliseconds(segment.end),
            // PostgreSQL does not store NUL characters.
            text: segment.text.replace('\0', ""),
        });
        // The writer ends with the runtime, and then nobody listens.
        let _ = sender.send(said.collect());
    });
    (settled, writer)
}

async fn write(
    pool: PgPool,
    job: JobId,
    mut said: SaidSegments,
    mut receiver: UnboundedReceiver<Vec<SaidSegment>>,
) {
    while let Some(segments) = receiver.recv().await {
        said.segments = segments;
        let until = Instant::now() + GATHER;
        while let Ok(Some(more)) = timeout_at(until, receiver.recv()).await {
            said.segments.extend(more);
        }
        let body = serde_json::to_value(&said).unwrap_or_default();
        if let Err(error) = events::append(&pool, job, events::SEGMENTS, &body).await {
            tracing::debug!(%error, "text could not be told before its task ends");
        }
        said.first += said.segments.len();
    }
}
