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

/// Time in which segments are gathered into one entry of the log.
const GATHER: Duration = Duration::from_millis(400);

/// What to hand to the engine. The log is written until the engine lets go of it.
#[must_use]
pub fn teller(pool: &PgPool, task: &ClaimedTask, request: &TranscribeRequest) -> Settled {
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
    tokio::spawn(write(pool.clone(), task.job_id, said, receiver));
    Arc::new(move |segments: &[Segment]| {
        let said = segments.iter().map(|segment| SaidSegment {
            start: segment.start,
            end: segment.end,
            // PostgreSQL does not store NUL characters.
            text: segment.text.replace('\0', ""),
        });
        // The writer ends with the runtime, and then nobody listens.
        let _ = sender.send(said.collect());
    })
}

async fn write(
    pool: PgPool,
    job: JobId,
    mut said: SaidSegments,
    mut receiver: UnboundedReceiver<Vec<SaidSegment>>,
) {
    while let Some(segments) = receiver.recv().await {
        said.segments = segments;
        tokio::time::sleep(GATHER).await;
        while let Ok(more) = receiver.try_recv() {
            said.segments.extend(more);
        }
        let body = serde_json::to_value(&said).unwrap_or_default();
        if let Err(error) = events::append(&pool, job, events::SEGMENTS, &body).await {
            tracing::debug!(%error, "text could not be told before its task ends");
        }
        said.first += said.segments.len();
    }
}
