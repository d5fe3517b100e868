//! Runs one claimed task to its record: completed, failed, given back, or nothing at all when the lease was lost.
//!
//! A record that the database does not take is tried again until the lease runs out, so an outage shorter than the
//! lease costs nothing.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use dalston_schema::db::DbError;
use dalston_schema::db::tasks::{self, Completion, Outcome};
use dalston_schema::measure::Measure;
use dalston_schema::task::{ClaimedTask, Lease};
use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::Instrument;

use crate::backoff::Backoff;
use crate::environment::Environment;
use crate::failure::{Retry, StageError, StageResult, TaskFailure};
use crate::lease::HeldLease;
use crate::outage::wait_out;
use crate::stage::{self, TaskContext};
use crate::stop::{Stop, StopReason};

/// A stopped stage that has not returned after this long is left to itself.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// Shortest time limit of a task.
const SHORTEST_LIMIT: Duration = Duration::from_secs(120);
/// Seconds a task may take per second of audio. Wide enough for a large model on a slow CPU shared by several tasks; it is
/// there to end what hangs.
const LIMIT_PER_AUDIO_SECOND: f64 = 10.0;

/// What is written about a task that has ended.
#[derive(Debug)]
enum Record {
    Complete(Box<Completion>),
    Fail(TaskFailure),
    GiveBack,
    /// The lease is lost: nothing.
    Nothing,
}

/// Runs a task and records how it ended.
pub async fn execute(environment: &Environment, task: ClaimedTask, held: HeldLease) {
    let span = tracing::info_span!(
        "task",
        job.id = %task.job_id,
        task.id = %task.id,
        stage = %task.stage,
        attempt = task.attempt,
    );
    async {
        let started = Instant::now();
        let result = run_stage(environment, &task, &held).await;
        let record = decide(result, held.stop.reason());
        let outcome = record_name(&record);
        let seconds = started.elapsed().as_secs_f64();
        log(&task, &record, seconds);
        write(environment, &held, record).await;
        let labels = [("stage", task.stage.as_str()), ("status", outcome)];
        let measures = &environment.measures;
        measures.count(Measure::TasksProcessed, &labels, 1);
        measures.observe(Measure::TaskDuration, &labels, seconds);
    }
    .instrument(span)
    .await;
}

/// Reads the job, then runs the stage under a time limit; a panic becomes a failure.
async fn run_stage(
    environment: &Environment,
    task: &ClaimedTask,
    held: &HeldLease,
) -> StageResult<Completion> {
    let begin = || tasks::begin(&environment.pool, task.job_id, held.lease);
    let Some(begun) = wait_out(&held.stop, begin).await? else {
        // Deleted meanwhile; its tasks went with it.
        held.stop.stop(StopReason::LeaseLost);
        return Err(StageError::Stopped);
    };
    if let Some(waited) = begun.waited_seconds {
        let labels = [("stage", task.stage.as_str())];
        environment
            .measures
            .observe(Measure::QueueWait, &labels, waited);
    }
    let job = begun.job;
    let limit = time_limit(job.audio_duration_seconds);
    let scratch = environment.scratch.task(task.id)?;
    let context = TaskContext {
        environment,
        task,
        job: &job,
        stop: &held.stop,
        progress: &held.progress,
        scratch: &scratch,
    };
    let stage = AssertUnwindSafe(stage::run(&context)).catch_unwind();
    tokio::pin!(stage);
    let caught = tokio::select! {
        caught = &mut stage => caught,
        () = tokio::time::sleep(limit) => {
            held.stop.stop(StopReason::TimeLimit);
            wind_down(stage).await
        }
        () = held.stop.stopped() => wind_down(stage).await,
    };
    let result = caught.unwrap_or_else(|panic| {
        Err(
            TaskFailure::retryable("The task crashed; this is a fault in the program.")
                .with_detail(panic_text(&*panic))
                .into(),
        )
    });
    match result {
        Err(StageError::Stopped) if held.stop.reason() == Some(StopReason::TimeLimit) => {
            Err(StageError::retryable(format!(
                "The task did not finish within {} s, the limit for {:.0} s of audio.",
                limit.as_secs(),
                job.audio_duration_seconds
            )))
        }
        other => other,
    }
}

/// Waits for a stopped stage to notice.
async fn wind_down<T>(
    stage: impl Future<Output = std::thread::Result<StageResult<T>>>,
) -> std::thread::Result<StageResult<T>> {
    match tokio::time::timeout(STOP_GRACE, stage).await {
        Ok(ended) => ended,
        Err(_) => {
            tracing::error!("a stopped stage did not end and is left to itself");
            Ok(Err(StageError::Stopped))
        }
    }
}

fn time_limit(audio_seconds: f64) -> Duration {
    // A length that is no number gets the shortest limit.
    Duration::try_from_secs_f64(audio_seconds * LIMIT_PER_AUDIO_SECOND)
        .unwrap_or(SHORTEST_LIMIT)
        .max(SHORTEST_LIMIT)
}

/// What to write, from how the stage ended and why it was stopped, if it was.
fn decide(result: StageResult<Completion>, stopped: Option<StopReason>) -> Record {
    match (result, stopped) {
        (_, Some(StopReason::LeaseLost)) => Record::Nothing,
        (_, Some(StopReason::JobCancelled)) => Record::GiveBack,
        // Done is done, even when a stop came at the last moment.
        (Ok(completion), None | Some(StopReason::Shutdown | StopReason::TimeLimit)) => {
            Record::Complete(Box::new(completion))
        }
        (Err(StageError::Stopped), Some(StopReason::Shutdown)) => Record::GiveBack,
        // What fails while everything around it is being taken down says nothing about the task.
        (Err(StageError::Failed(failure)), Some(StopReason::Shutdown))
            if failure.retry == Retry::Worthwhile =>
        {
            Record::GiveBack
        }
        (Err(StageError::Failed(failure)), _) => Record::Fail(failure),
        (Err(StageError::Stopped), None | Some(StopReason::TimeLimit)) => {
            Record::Fail(TaskFailure::retryable("The task ended early."))
        }
    }
}

fn record_name(record: &Record) -> &'static str {
    match record {
        Record::Complete(_) => "completed",
        Record::Fail(_) => "failed",
        Record::GiveBack => "given_back",
        Record::Nothing => "lost",
    }
}

fn log(task: &ClaimedTask, record: &Record, seconds: f64) {
    let duration_ms = (seconds * 1000.0) as u64;
    let (id, stage) = (task.id, task.stage);
    match record {
        Record::Complete(_) => tracing::info!(duration_ms, "{stage} task {id} is done"),
        Record::GiveBack => tracing::info!(duration_ms, "{stage} task {id} is given back"),
        Record::Nothing => tracing::warn!(
            duration_ms,
            "{stage} task {id} was lost; nothing is recorded"
        ),
        Record::Fail(failure) => tracing::warn!(
            duration_ms,
            error = failure.message,
            detail = failure.detail,
            retryable = (failure.retry == Retry::Worthwhile),
            "{stage} task {id} failed: {failure}"
        ),
    }
}

/// Writes the record, again and again while the database cannot be reached and the lease holds.
async fn write(environment: &Environment, held: &HeldLease, mut record: Record) {
    let mut backoff = record_backoff();
    loop {
        let error = match write_once(environment, held.lease, &record).await {
            Ok(Outcome::Done) => return,
            Ok(Outcome::LeaseLost) => {
                tracing::info!("the task had moved on before its record came; nothing is changed");
                return;
            }
            Err(error) => error,
        };
        if error.is_transient() {
            if !backoff.is_failing() {
                tracing::warn!(%error, "the task's end could not be recorded; trying again while its lease holds");
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next_wait()) => {}
                () = lease_lost(&held.stop) => return,
            }
            continue;
        }
        tracing::error!(%error, "the task's end could not be recorded");
        // What cannot be stored is a failure of this attempt; what not even that says is left to the rescue.
        match record {
            Record::Complete(_) => {
                record = Record::Fail(TaskFailure::retryable("The result could not be stored."));
            }
            Record::Fail(_) | Record::GiveBack | Record::Nothing => return,
        }
    }
}

async fn write_once(
    environment: &Environment,
    lease: Lease,
    record: &Record,
) -> Result<Outcome, DbError> {
    let pool = &environment.pool;
    match record {
        Record::Complete(completion) => tasks::complete(pool, lease, completion).await,
        Record::Fail(failure) => {
            let retryable = failure.retry == Retry::Worthwhile;
            tasks::fail(pool, lease, &failure.message, retryable).await
        }
        Record::GiveBack => tasks::give_back(pool, lease).await,
        Record::Nothing => Ok(Outcome::Done),
    }
}

/// Ends when the lease is lost; other reasons to stop do not keep a finished task from being recorded.
async fn lease_lost(stop: &Stop) {
    stop.stopped().await;
    if stop.reason() != Some(StopReason::LeaseLost) {
        std::future::pending::<()>().await;
    }
}

fn record_backoff() -> Backoff {
    Backoff::new(Duration::from_millis(100), Duration::from_secs(2))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completion() -> Completion {
        Completion::answering(&()).expect("a unit is JSON")
    }

    #[test]
    fn what_is_recorded_follows_from_how_it_ended_and_why_it_was_stopped() {
        use StopReason::{JobCancelled, LeaseLost, Shutdown, TimeLimit};
        let done = || Ok(completion());
        let stopped = || Err(StageError::Stopped);
        let retryable = || Err(StageError::retryable("the disk is full"));
        let permanent = || Err(StageError::permanent("not audio"));
        for (result, reason, expected) in [
            (done(), None, "completed"),
            (done(), Some(LeaseLost), "lost"),
            (done(), Some(JobCancelled), "given_back"),
            (done(), Some(Shutdown), "completed"),
            (done(), Some(TimeLimit), "completed"),
            (stopped(), Some(LeaseLost), "lost"),
            (stopped(), Some(JobCancelled), "given_back"),
            (stopped(), Some(Shutdown), "given_back"),
            (stopped(), Some(TimeLimit), "failed"),
            (stopped(), None, "failed"),
            (retryable(), None, "failed"),
            (retryable(), Some(LeaseLost), "lost"),
            (retryable(), Some(Shutdown), "given_back"),
            (permanent(), Some(Shutdown), "failed"),
            (permanent(), Some(JobCancelled), "given_back"),
        ] {
            let shown = format!("{result:?} stopped by {reason:?}");
            assert_eq!(record_name(&decide(result, reason)), expected, "{shown}");
        }
    }

    #[test]
    fn the_time_limit_grows_with_the_audio() {
        assert_eq!(time_limit(1.0), SHORTEST_LIMIT);
        assert_eq!(time_limit(3600.0).as_secs(), 36_000);
        assert_eq!(time_limit(f64::NAN), SHORTEST_LIMIT);
    }
}
