//! Cuts long audio into tasks. Cuts fall into silence. Each chunk's tasks are copies of those that the planner made for
//! the whole file; which windows of speech a chunk decodes is settled by where they begin, so that all chunks together
//! decode exactly the windows that one task would.

use dalston_engines::SAMPLE_RATE;
use dalston_engines::chunking::{ChunkOptions, plan_chunks};
use dalston_engines::{SpeechRegion, SpeechSpan};
use dalston_schema::TaskId;
use dalston_schema::task::{
    AlignRequest, Branch, Chunk, FanOut, NewTask, PreparedAudio, TranscribeRequest,
};
use serde::de::DeserializeOwned;

use crate::failure::{StageResult, TaskFailure};

/// The tasks of all branches over these prepared files.
///
/// # Errors
/// When the plan holds a request of a shape this version does not know.
pub fn tasks(plan: &FanOut, files: &[PreparedAudio]) -> StageResult<Vec<NewTask>> {
    let mut tasks = Vec::new();
    for branch in &plan.branches {
        let request: TranscribeRequest = read(&branch.transcribe)?;
        // A channel that the audio turned out not to have fails in its own task, with words for the user.
        let file = files.iter().find(|file| file.channel == request.channel);
        let chunks = file.map_or_else(Vec::new, |file| cut(plan, file));
        if chunks.len() < 2 {
            tasks.extend([Some(branch.transcribe.clone()), branch.align.clone()]);
            continue;
        }
        for chunk in chunks {
            tasks.extend(copy(branch, &request, chunk)?);
        }
    }
    Ok(tasks.into_iter().flatten().collect())
}

/// The chunks of one prepared file.
fn cut(plan: &FanOut, file: &PreparedAudio) -> Vec<Chunk> {
    let samples = |seconds: f64| (seconds.max(0.0) * f64::from(SAMPLE_RATE)).round() as u64;
    let speech: Vec<SpeechSpan> = file
        .speech_regions
        .iter()
        .map(|&(start, end)| SpeechRegion { start, end }.into())
        .collect();
    let options = ChunkOptions {
        target: samples(plan.target_seconds),
        minimum: samples(plan.minimum_seconds),
    };
    plan_chunks(&speech, samples(file.duration), &options)
        .into_iter()
        .zip(0..)
        .map(|(chunk, index)| Chunk {
            index,
            start: chunk.start as f64 / f64::from(SAMPLE_RATE),
            end: chunk.end as f64 / f64::from(SAMPLE_RATE),
        })
        .collect()
}

/// One chunk's copy of a branch.
fn copy(
    branch: &Branch,
    request: &TranscribeRequest,
    chunk: Chunk,
) -> StageResult<[Option<NewTask>; 2]> {
    let name = |whole: &str| format!("{whole}_c{:03}", chunk.index);
    let transcribe = NewTask {
        id: TaskId::generate(),
        name: name(&branch.transcribe.name),
        request: write(&TranscribeRequest {
            chunk: Some(chunk),
            ..request.clone()
        }),
        ..branch.transcribe.clone()
    };
    let align = match &branch.align {
        None => None,
        Some(align) => {
            let request: AlignRequest = read(align)?;
            Some(NewTask {
                id: TaskId::generate(),
                name: name(&align.name),
                needs: vec![transcribe.id],
                request: write(&AlignRequest {
                    transcription: transcribe.name.clone(),
                    chunk: Some(chunk),
                    ..request
                }),
                ..align.clone()
            })
        }
    };
    Ok([Some(transcribe), align])
}

fn read<T: DeserializeOwned>(task: &NewTask) -> StageResult<T> {
    serde_json::from_value(task.request.clone()).map_err(|error| {
        TaskFailure::permanent("The job's plan has a shape this version does not know.")
            .with_detail(error)
            .into()
    })
}

/// Requests are plain structs of numbers and texts, which always have a JSON form.
fn write(request: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(request).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use dalston_schema::Stage;

    use super::*;

    fn task(stage: Stage, needs: Vec<TaskId>, request: serde_json::Value) -> NewTask {
        NewTask {
            id: TaskId::generate(),
            stage,
            name: stage.as_str().to_owned(),
            engine: "engine".to_owned(),
            model: "model".to_owned(),
            needs,
            required: stage == Stage::Transcribe,
            max_attempts: 3,
            chosen_because: Some("it is the best".to_owned()),
            request,
        }
    }

    fn plan(target_seconds: f64) -> FanOut {
        let prepare = TaskId::generate();
        let request = TranscribeRequest {
            language: Some("en".to_owned()),
            ..TranscribeRequest::default()
        };
        let transcribe = task(Stage::Transcribe, vec![prepare], write(&request));
        let request = AlignRequest {
            transcription: "transcribe".to_owned(),
            ..AlignRequest::default()
        };
        let align = task(Stage::Align, vec![transcribe.id], write(&request));
        FanOut {
            target_seconds,
            minimum_seconds: 20.0,
            before: TaskId::generate(),
            branches: vec![Branch {
                transcribe,
                align: Some(align),
            }],
        }
    }

    fn audio() -> PreparedAudio {
        PreparedAudio {
            duration: 600.0,
            // Nine seconds of speech, a second of silence.
            speech_regions: (0..60)
                .map(|turn| (f64::from(turn) * 10.0, f64::from(turn) * 10.0 + 9.0))
                .collect(),
            ..PreparedAudio::default()
        }
    }

    #[test]
    fn chunks_cover_the_file_and_keep_each_transcription_with_its_alignment() {
        let plan = plan(100.0);
        let tasks = tasks(&plan, &[audio()]).unwrap();
        // Of so short a file all parts are half as long as the target.
        assert_eq!(tasks.len(), 24);
        let mut end = 0.0;
        for (index, pair) in tasks.chunks(2).enumerate() {
            let transcribe: TranscribeRequest = read(&pair[0]).unwrap();
            let align: AlignRequest = read(&pair[1]).unwrap();
            let chunk = transcribe.chunk.unwrap();
            assert_eq!(pair[0].name, format!("transcribe_c{index:03}"));
            assert_eq!(align.transcription, pair[0].name);
            assert_eq!(pair[0].needs, plan.branches[0].transcribe.needs);
            assert_eq!(pair[1].needs, [pair[0].id]);
            assert_eq!((pair[0].required, pair[1].required), (true, false));
            assert_eq!(align.chunk, transcribe.chunk);
            assert_eq!(transcribe.language.as_deref(), Some("en"));
            assert!((chunk.start - end).abs() < 1e-9);
            let in_silence = chunk.end % 10.0 >= 9.0 || chunk.end % 10.0 < 1e-9;
            assert!(in_silence, "{chunk:?}");
            end = chunk.end;
        }
        assert!((end - 600.0).abs() < 1e-9);
    }

    #[test]
    fn a_file_that_makes_one_chunk_keeps_the_planned_tasks() {
        let plan = plan(900.0);
        let tasks = tasks(&plan, &[audio()]).unwrap();
        let names: Vec<&str> = tasks.iter().map(|task| task.name.as_str()).collect();
        assert_eq!(names, ["transcribe", "align"]);
        assert_eq!(tasks[0].id, plan.branches[0].transcribe.id);
    }
}
