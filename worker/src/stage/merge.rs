//! The `merge` stage: reads what the other tasks of the job answered and stores the transcript.

use dalston_schema::Stage;
use dalston_schema::db;
use dalston_schema::db::tasks::Completion;
use dalston_schema::task::{
    AlignResponse, DiarizeResponse, FinishedTask, TaskStatus, TranscribeResponse,
};

use super::{TaskContext, answer, prepared, response};
use crate::assemble::{Parts, assemble};
use crate::failure::{StageError, StageResult};
use crate::outage::wait_out;

pub async fn run(context: &TaskContext<'_>) -> StageResult<Completion> {
    let finished = context.finished().await?;
    let prepare = prepared(&finished)?;
    let transcriptions = completed(&finished)
        .filter(|task| task.stage == Stage::Transcribe)
        .map(|task| Ok((task.name.clone(), response::<TranscribeResponse>(task)?)))
        .collect::<StageResult<Vec<_>>>()?;
    let alignments = completed(&finished)
        .filter(|task| task.stage == Stage::Align)
        .map(response::<AlignResponse>)
        .collect::<StageResult<Vec<_>>>()?;
    let diarization = completed(&finished)
        .find(|task| task.stage == Stage::Diarize)
        .map(response::<DiarizeResponse>)
        .transpose()?;
    if transcriptions.is_empty() {
        return Err(StageError::permanent("The job has no transcription."));
    }
    let mut stages: Vec<Stage> = completed(&finished).map(|task| task.stage).collect();
    stages.push(Stage::Merge);
    let pool = &context.environment.pool;
    let completed_at = wait_out(context.stop, || db::now(pool)).await?;
    let transcript = assemble(Parts {
        job_id: context.job.id,
        created_at: context.job.created_at,
        completed_at,
        parameters: &context.job.parameters,
        prepare: &prepare,
        transcriptions,
        alignments,
        diarization,
        stages,
        skipped: finished
            .iter()
            .filter(|task| task.status == TaskStatus::Skipped)
            .map(|task| (task.name.clone(), task.error.clone()))
            .collect(),
    });
    let stats = transcript.stats();
    context
        .progress
        .report(prepare.source.duration, prepare.source.duration);
    Ok(Completion {
        transcript: Some((transcript, stats.clone())),
        ..answer(&stats)?
    })
}

fn completed(finished: &[FinishedTask]) -> impl Iterator<Item = &FinishedTask> {
    finished
        .iter()
        .filter(|task| task.status == TaskStatus::Completed)
}
