//! The integrated mode: one task transcribes, aligns and tells speakers apart, and nothing is stored in between. What
//! this worker has no model for, or what fails here, becomes a task of its own, as in the staged mode.

use dalston_schema::TaskId;
use dalston_schema::db::tasks::Completion;
use dalston_schema::task::{
    AlignRequest, DiarizeRequest, IntegratedStages, NewTask, PreparedAudio, TranscribeRequest,
    TranscribeResponse,
};
use serde::de::DeserializeOwned;

use crate::failure::{StageError, StageResult, TaskFailure};
use crate::model_pool::ModelKey;
use crate::stage::portion::Portion;
use crate::stage::{TaskContext, align, answer, diarize};

/// Shares of the work: transcribing, then what follows.
const TRANSCRIBING: f64 = 0.6;

/// The portion of transcribing, and that of all that follows.
pub fn shares(request: &TranscribeRequest, whole: &Portion) -> (Portion, Portion) {
    if request.integrated.is_none() {
        return (whole.clone(), whole.part(1.0, 0.0));
    }
    (
        whole.part(0.0, TRANSCRIBING),
        whole.part(TRANSCRIBING, 1.0 - TRANSCRIBING),
    )
}

/// Runs the further stages on a transcription.
///
/// # Errors
/// [`StageError::Stopped`]; a stage that fails becomes a task instead.
pub async fn run(
    context: &TaskContext<'_>,
    stages: &IntegratedStages,
    audio: &PreparedAudio,
    mut transcription: TranscribeResponse,
    portion: &Portion,
) -> StageResult<Completion> {
    let mut left = Vec::new();
    if let Some(task) = &stages.align {
        let request: AlignRequest = read(task)?;
        let part = portion.part(0.0, 0.3);
        let key = key(task);
        let aligned = align::align(context, &key, &request, audio, &transcription, &part);
        match here(context, task, aligned).await? {
            Some(alignment) => transcription.alignment = Some(alignment),
            None => left.push(task.clone()),
        }
    }
    if let Some(task) = &stages.diarize {
        let request: DiarizeRequest = read(task)?;
        let part = portion.part(0.3, 0.7);
        let key = key(task);
        let diarized = diarize::diarize(context, &key, &request, audio, &part);
        match here(context, task, diarized).await? {
            Some(diarization) => transcription.diarization = Some(diarization),
            None => left.push(task.clone()),
        }
    }
    let before: Vec<TaskId> = if left.is_empty() {
        Vec::new()
    } else {
        vec![stages.before]
    };
    Ok(Completion {
        fan_out: left,
        before,
        ..answer(&transcription)?
    })
}

/// The answer of a stage that ran here; `None` when it must become a task.
async fn here<T>(
    context: &TaskContext<'_>,
    task: &NewTask,
    stage: impl Future<Output = StageResult<T>>,
) -> StageResult<Option<T>> {
    if !context.environment.models.has(&key(task)) {
        tracing::info!(
            model = task.model,
            "{} runs as a task of its own",
            task.name
        );
        return Ok(None);
    }
    match stage.await {
        Ok(answer) => Ok(Some(answer)),
        Err(StageError::Stopped) => Err(StageError::Stopped),
        Err(StageError::Failed(failure)) => {
            tracing::warn!(
                detail = failure.detail,
                "{} failed ({failure}) and runs as a task of its own",
                task.name
            );
            Ok(None)
        }
    }
}

fn key(task: &NewTask) -> ModelKey {
    ModelKey {
        engine: task.engine.clone(),
        model: task.model.clone(),
    }
}

fn read<T: DeserializeOwned>(task: &NewTask) -> StageResult<T> {
    serde_json::from_value(task.request.clone()).map_err(|error| {
        TaskFailure::permanent("The job's plan has a shape this version does not know.")
            .with_detail(error)
            .into()
    })
}
