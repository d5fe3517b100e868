//! The plan of a job: which tasks, on which engine and model, in which order. Pure: parameters and the capabilities
//! that workers announced go in, tasks and warnings come out.

use dalston_schema::capability::OfferedCapability;
use dalston_schema::catalogue::{self, Resolution, Wish};
use dalston_schema::job::{JobParameters, SpeakerDetection, TimestampGranularity};
use dalston_schema::task::{MergeRequest, NewTask, PrepareRequest, TranscribeRequest};
use dalston_schema::{Stage, TaskId};
use serde::Serialize;

/// Attempts a task gets in all.
const MAX_ATTEMPTS: i32 = 3;
/// The same for `prepare`. Audio that cannot be decoded fails it at once; what is retried is a store that is full or
/// away, and with the backoff between them these attempts wait five to ten minutes for somebody to make room.
const PREPARE_ATTEMPTS: i32 = 10;
/// Beams of the transcriber's search, as the reference implementation's command line uses.
const BEAM_SIZE: u32 = 5;

/// What a job expands into.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The tasks, in an order in which every task comes after what it needs.
    pub tasks: Vec<NewTask>,
    /// What was asked for and cannot be given; for the transcript's warnings.
    pub warnings: Vec<String>,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PlanError {
    /// What kind of refusal.
    pub reason: PlanRefusal,
    /// The model that was asked for.
    pub requested: String,
    /// A sentence for the client, with the remedy.
    pub message: String,
}

/// Kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanRefusal {
    /// Nobody knows the model.
    UnknownModel,
    /// The model is known, but on no worker.
    AbsentModel,
    /// The model, or every model present, cannot do what is asked.
    Unsuitable,
    /// No worker has announced any transcriber.
    NoTranscriber,
}

/// Plans a job. `new_id` makes the ids of the tasks.
///
/// # Errors
/// [`PlanError`] when no model present can do it.
pub fn plan(
    parameters: &JobParameters,
    offered: &[OfferedCapability],
    new_id: &mut dyn FnMut() -> TaskId,
) -> Result<Plan, PlanError> {
    let wish = Wish {
        stage: Stage::Transcribe,
        language: parameters.language.as_deref(),
        translate: parameters.translate,
    };
    let resolution = catalogue::resolve(&parameters.model, &wish, offered);
    let explanation = resolution.explain(&parameters.model, &wish);
    let Some(transcriber) = resolution.chosen() else {
        return Err(PlanError {
            reason: refusal(&resolution, offered),
            requested: parameters.model.clone(),
            message: explanation,
        });
    };
    let warnings = warnings(parameters, transcriber);
    let prepare = task(
        new_id(),
        Stage::Prepare,
        None,
        Vec::new(),
        &PrepareRequest::default(),
    );
    let request = TranscribeRequest {
        language: parameters.language.clone(),
        translate: parameters.translate,
        prompt: parameters.prompt.clone(),
        vocabulary: parameters.vocabulary.clone(),
        temperature: parameters.temperature,
        beam_size: BEAM_SIZE,
        word_timestamps: parameters.timestamps == TimestampGranularity::Word
            && transcriber.native_words,
        channel: None,
        chunk: None,
        integrated: None,
    };
    let chosen = Some((transcriber, explanation));
    let transcribe = task(
        new_id(),
        Stage::Transcribe,
        chosen,
        vec![prepare.id],
        &request,
    );
    let merge = task(
        new_id(),
        Stage::Merge,
        None,
        vec![transcribe.id],
        &MergeRequest::default(),
    );
    Ok(Plan {
        tasks: vec![prepare, transcribe, merge],
        warnings,
    })
}

fn refusal(resolution: &Resolution<'_>, offered: &[OfferedCapability]) -> PlanRefusal {
    let any = offered
        .iter()
        .any(|offer| offer.capability.stage == Stage::Transcribe);
    match resolution {
        Resolution::Unknown => PlanRefusal::UnknownModel,
        _ if !any => PlanRefusal::NoTranscriber,
        Resolution::Absent(_) | Resolution::Unavailable { .. } => PlanRefusal::AbsentModel,
        Resolution::Exact(_)
        | Resolution::Alias(_)
        | Resolution::Engine { .. }
        | Resolution::Auto { .. }
        | Resolution::Unsuitable { .. } => PlanRefusal::Unsuitable,
    }
}

fn warnings(parameters: &JobParameters, transcriber: &OfferedCapability) -> Vec<String> {
    let model = &transcriber.capability.model;
    let mut warnings = Vec::new();
    match parameters.speaker_detection {
        SpeakerDetection::None => {}
        SpeakerDetection::Diarize => warnings
            .push("Speakers were not told apart: no worker offers speaker diarization.".to_owned()),
        SpeakerDetection::PerChannel => warnings
            .push("Channels were mixed: no worker offers transcription per channel.".to_owned()),
    }
    if parameters.timestamps == TimestampGranularity::Word && !transcriber.native_words {
        warnings.push(format!(
            "Words have no times: {model} gives none and no worker offers alignment; segments have times."
        ));
    }
    if !parameters.vocabulary.is_empty() && transcriber.vocabulary_method == "none" {
        warnings.push(format!(
            "The vocabulary was not used: {model} cannot be told which words to expect."
        ));
    }
    warnings
}

fn task(
    id: TaskId,
    stage: Stage,
    chosen: Option<(&OfferedCapability, String)>,
    needs: Vec<TaskId>,
    request: &impl Serialize,
) -> NewTask {
    let (engine, model, chosen_because) = match chosen {
        Some((offer, because)) => (
            offer.capability.engine.clone(),
            offer.capability.model.clone(),
            Some(because),
        ),
        None => (String::new(), String::new(), None),
    };
    NewTask {
        id,
        stage,
        name: stage.as_str().to_owned(),
        engine,
        model,
        needs,
        required: true,
        max_attempts: match stage {
            Stage::Prepare => PREPARE_ATTEMPTS,
            Stage::Transcribe | Stage::Align | Stage::Diarize | Stage::Merge => MAX_ATTEMPTS,
        },
        chosen_because,
        // Requests are plain structs of numbers and texts, which always have a JSON form.
        request: serde_json::to_value(request).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use dalston_schema::Capability;
    use uuid::Uuid;

    fn offer(
        model: &str,
        languages: Option<&[&str]>,
        size: u64,
        words: bool,
        translates: bool,
    ) -> OfferedCapability {
        let capability = Capability {
            stage: Stage::Transcribe,
            engine: "whisper".to_owned(),
            model: model.to_owned(),
        };
        OfferedCapability {
            languages: languages.map(|known| known.iter().map(|code| (*code).to_owned()).collect()),
            native_words: words,
            translates,
            size_bytes: size,
            vocabulary_method: if words { "prompt_conditioning" } else { "none" }.to_owned(),
            ..OfferedCapability::new(capability)
        }
    }

    fn present() -> Vec<OfferedCapability> {
        vec![
            OfferedCapability {
                capability: Capability::without_model(Stage::Prepare),
                ..offer("", None, 0, false, false)
            },
            offer("mine-multilingual", None, 80 << 20, true, true),
            offer("mine-english", Some(&["en"]), 40 << 20, true, false),
            offer(
                "mine-german-wordless",
                Some(&["de"]),
                40 << 20,
                false,
                false,
            ),
        ]
    }

    fn ids() -> impl FnMut() -> TaskId {
        let mut next = 0;
        move || {
            next += 1;
            TaskId(Uuid::from_u128(next))
        }
    }

    fn asked(model: &str, language: Option<&str>) -> JobParameters {
        JobParameters {
            model: model.to_owned(),
            language: language.map(str::to_owned),
            ..JobParameters::default()
        }
    }

    fn check(parameters: &JobParameters, expected: Result<&str, PlanRefusal>) {
        let planned = plan(parameters, &present(), &mut ids());
        let got = planned.as_ref().map(|plan| plan.tasks[1].model.as_str());
        assert_eq!(
            got.map_err(|error| error.reason),
            expected,
            "{parameters:?}"
        );
    }

    #[test]
    fn a_model_is_chosen_or_refused_for_a_reason() {
        check(&asked("AUTO", Some("fr")), Ok("mine-multilingual"));
        check(&asked("auto", None), Ok("mine-multilingual"));
        check(&asked("mine-english", None), Ok("mine-english"));
        check(&asked("whisper", Some("fr")), Ok("mine-multilingual"));
        check(&asked("whisper-1", None), Ok("mine-multilingual"));
        check(
            &asked("mine-english", Some("de")),
            Err(PlanRefusal::Unsuitable),
        );
        check(
            &asked("nobody/knows-this", None),
            Err(PlanRefusal::UnknownModel),
        );
        check(
            &asked("Systran/faster-whisper-base", None),
            Err(PlanRefusal::AbsentModel),
        );
        let translate = JobParameters {
            translate: true,
            ..asked("mine-english", None)
        };
        check(&translate, Err(PlanRefusal::Unsuitable));
    }

    #[test]
    fn without_workers_a_known_name_waits_for_one_and_an_unknown_one_does_not() {
        let refused = |model| {
            plan(&asked(model, None), &[], &mut ids())
                .unwrap_err()
                .reason
        };
        assert_eq!(refused("auto"), PlanRefusal::NoTranscriber);
        assert_eq!(
            refused("Systran/faster-whisper-base"),
            PlanRefusal::NoTranscriber
        );
        assert_eq!(refused("nobody/knows-this"), PlanRefusal::UnknownModel);
    }

    #[test]
    fn tasks_form_a_chain_and_say_why_their_model_was_chosen() {
        let plan = plan(&asked("auto", Some("en")), &present(), &mut ids()).unwrap();
        let stages: Vec<_> = plan.tasks.iter().map(|task| task.stage).collect();
        assert_eq!(stages, [Stage::Prepare, Stage::Transcribe, Stage::Merge]);
        assert!(plan.tasks[0].needs.is_empty());
        assert_eq!(plan.tasks[1].needs, [plan.tasks[0].id]);
        assert_eq!(plan.tasks[2].needs, [plan.tasks[1].id]);
        assert!(
            plan.tasks[1]
                .chosen_because
                .as_ref()
                .unwrap()
                .contains("best model present")
        );
        assert!(plan.tasks[0].engine.is_empty() && plan.tasks[0].chosen_because.is_none());
        assert!(plan.tasks.iter().all(|task| task.required));
        assert!(plan.warnings.is_empty());
    }

    #[test]
    fn what_cannot_be_given_becomes_a_warning() {
        let parameters = JobParameters {
            speaker_detection: SpeakerDetection::Diarize,
            vocabulary: vec!["Dalston".to_owned()],
            ..asked("mine-german-wordless", None)
        };
        let plan = plan(&parameters, &present(), &mut ids()).unwrap();
        let beginnings: Vec<_> = plan
            .warnings
            .iter()
            .map(|warning| warning.split(':').next().unwrap())
            .collect();
        assert_eq!(
            beginnings,
            [
                "Speakers were not told apart",
                "Words have no times",
                "The vocabulary was not used"
            ]
        );
        assert_eq!(plan.tasks[1].request["word_timestamps"], false);
    }
}
