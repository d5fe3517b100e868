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
    let finished = context.finished(None).await?;
    let prepare = prepared(&finished)?;
    let pool = &context.environment.pool;
    let completed_at = wait_out(context.stop, || db::now(pool)).await?;
    let mut parts = Parts {
        job_id: context.job.id,
        created_at: context.job.created_at,
        completed_at,
        parameters: &context.job.parameters,
        prepare: &prepare,
        transcriptions: Vec::new(),
        alignments: Vec::new(),
        diarization: None,
        stages: vec![Stage::Merge],
        skipped: Vec::new(),
    };
    // Hours of speech are many words: each answer's JSON is freed as soon as it is read.
    for task in finished {
        take(task, &mut parts)?;
    }
    if parts.transcriptions.is_empty() {
        return Err(StageError::permanent("The job has no transcription."));
    }
    let transcript = assemble(parts);
    let stats = transcript.stats();
    context
        .progress
        .report(prepare.source.duration, prepare.source.duration);
    Ok(Completion {
        transcript: Some((transcript, stats.clone())),
        ..answer(&stats)?
    })
}

/// Takes what a task of the job answered, or why it was left out.
fn take(task: FinishedTask, parts: &mut Parts<'_>) -> StageResult<()> {
    if task.status == TaskStatus::Skipped {
        parts.skipped.push((task.name, task.error));
        return Ok(());
    }
    parts.stages.push(task.stage);
    match task.stage {
        Stage::Transcribe => {
            let transcription: TranscribeResponse = response(&task)?;
            parts.transcriptions.push((task.name, transcription));
        }
        Stage::Align => parts.alignments.push(response::<AlignResponse>(&task)?),
        Stage::Diarize => parts.diarization = Some(response::<DiarizeResponse>(&task)?),
        Stage::Prepare | Stage::Merge => {}
    }
    Ok(())
}
