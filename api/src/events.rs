//! `GET …/{job_id}/events`: what happens to a job, live, as server-sent events that can be replayed.
//!
//! Events come from the job's log in the database. A client that lost its connection sends the last id it saw as
//! `Last-Event-ID` and misses nothing; after the final state the stream ends, and a further call answers 204, which
//! tells browsers to stop reconnecting.

use std::collections::VecDeque;
use std::time::Duration;

use dalston_schema::db::events::{self, JobEvent};
use dalston_schema::db::jobs;
use dalston_schema::{JobId, JobStatus};
use futures_util::Stream;
use futures_util::stream;
use poem::http::StatusCode;
use poem::web::sse::{Event, SSE};
use poem::{IntoResponse, Request};
use poem_openapi::OpenApi;
use poem_openapi::param::{Path, Query};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::auth::Caller;
use crate::document::{Events, Tag};
use crate::error::{ApiError, InvalidValue};
use crate::native::transcriptions::readable;
use crate::state::App;
use crate::timestamp::Timestamp;
use crate::wait::Watching;

/// Events read at a time.
const PAGE: i64 = 500;
/// Time between two signs of life.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The event endpoint.
pub struct EventsApi(pub App);

#[OpenApi(tag = "Tag::Transcriptions")]
impl EventsApi {
    /// Follow a job.
    ///
    /// Types: `job.pending`, `job.running`, `job.completed`, `job.failed`, `job.cancelling`, `job.cancelled`,
    /// `task.completed`, `task.failed`, `task.retrying`, `task.skipped`, `progress`, which counts seconds of audio and
    /// has the job's `progress` (0 to 1) and `eta_seconds` (null until known), and `transcript.segments`, text while it
    /// is being made: `segments` with `start`, `end` and `text`, in order of time within their `channel` and `chunk`;
    /// `first` counts those told before, since another `attempt` begins anew. Continues after the header
    /// `Last-Event-ID`, or else after the parameter of the same meaning.
    #[oai(path = "/v1/audio/transcriptions/:job_id/events", method = "get")]
    async fn events(
        &self,
        caller: Caller,
        request: &Request,
        job_id: Path<Uuid>,
        /// Continue after this event; 0 replays everything.
        #[oai(default)]
        last_event_id: Query<i64>,
    ) -> Result<Events, ApiError> {
        let job = readable(&self.0, &caller, job_id.0).await?;
        let header = request.header("last-event-id").filter(|id| !id.is_empty());
        let (place, name, sent) = match header {
            Some(id) => ("header", "last-event-id", id.to_owned()),
            None => ("query", "last_event_id", last_event_id.0.to_string()),
        };
        let last = (sent.parse().ok())
            .filter(|id| *id >= 0)
            .ok_or_else(|| not_an_id(place, name, &sent))?;
        let mut feed = Feed::new(&self.0, job.id, last);
        feed.fill().await?;
        if feed.waiting.is_empty() && job.status.is_final() {
            return Ok(Events(StatusCode::NO_CONTENT.into_response()));
        }
        let events = SSE::new(feed.stream()).keep_alive(KEEP_ALIVE);
        Ok(Events(events.into_response()))
    }
}

fn not_an_id(place: &'static str, name: &str, id: &str) -> ApiError {
    ApiError::invalid(vec![InvalidValue {
        place,
        name: name.to_owned(),
        message: "Input should be the id of an event".to_owned(),
        input: id.into(),
    }])
}

/// Where one reader of a job's log is.
struct Feed {
    app: App,
    job: JobId,
    last: i64,
    waiting: VecDeque<JobEvent>,
    watching: Watching,
}

impl Feed {
    fn new(app: &App, job: JobId, last: i64) -> Self {
        Self {
            app: app.clone(),
            job,
            last,
            waiting: VecDeque::new(),
            // Watching begins before the first read, so nothing falls between them.
            watching: app.watch.job(job),
        }
    }

    async fn fill(&mut self) -> Result<(), ApiError> {
        let read = events::after(&self.app.pool, self.job, self.last, PAGE).await?;
        if let Some(newest) = read.last() {
            self.last = newest.id;
        }
        self.waiting.extend(read);
        Ok(())
    }

    fn stream(self) -> impl Stream<Item = Event> + Send {
        stream::unfold(Some(self), |feed| async move {
            let mut feed = feed?;
            loop {
                if let Some(event) = feed.waiting.pop_front() {
                    return Some((message(&event), Some(feed)));
                }
                match feed.ended().await {
                    Ok(true) => return None,
                    Ok(false) => {}
                    Err(error) => return Some((failure(&error), None)),
                }
                if feed.waiting.is_empty() {
                    tokio::select! {
                        () = feed.watching.changed() => {}
                        () = feed.app.stopping.cancelled() => return None,
                    }
                    if let Err(error) = feed.fill().await {
                        return Some((failure(&error), None));
                    }
                }
            }
        })
    }

    /// Whether the job is in a final state (or gone) and everything it logged has been read. The state is asked first:
    /// what made it final was logged in the same transaction.
    async fn ended(&mut self) -> Result<bool, ApiError> {
        let found = jobs::statuses(&self.app.pool, &[self.job]).await?;
        let is_final = found
            .first()
            .is_none_or(|(_, status)| JobStatus::is_final(*status));
        self.fill().await?;
        Ok(is_final && self.waiting.is_empty())
    }
}

fn message(event: &JobEvent) -> Event {
    let mut data = json!({
        "type": event.event_type, "job_id": event.job_id, "at": Timestamp(event.at).text(),
    });
    if let (Value::Object(data), Value::Object(body)) = (&mut data, &event.body) {
        for (key, value) in body {
            data.entry(key).or_insert_with(|| value.clone());
        }
    }
    Event::message(data.to_string())
        .event_type(event.event_type.clone())
        .id(event.id.to_string())
}

fn failure(error: &ApiError) -> Event {
    Event::message(error.body().to_string()).event_type("error")
}
