#![allow(clippy::unwrap_used, reason = "a test may panic")]

use dalston_schema::Capability;
use dalston_schema::job::Track;
use serde_json::json;
use uuid::Uuid;

use super::*;

fn offer(stage: Stage, engine: &str, model: &str, languages: Option<&[&str]>) -> OfferedCapability {
    OfferedCapability {
        languages: languages.map(|known| known.iter().map(|code| (*code).to_owned()).collect()),
        size_bytes: 40 << 20,
        ..OfferedCapability::new(Capability {
            stage,
            engine: engine.to_owned(),
            model: model.to_owned(),
        })
    }
}

fn transcriber(model: &str, languages: Option<&[&str]>) -> OfferedCapability {
    OfferedCapability {
        native_words: true,
        vocabulary_method: "prompt_conditioning".to_owned(),
        ..offer(Stage::Transcribe, "whisper", model, languages)
    }
}

/// What three transcribers, one of them without words, an English aligner and a diarizer offer.
fn present() -> Vec<OfferedCapability> {
    vec![
        OfferedCapability::new(Capability::without_model(Stage::Prepare)),
        OfferedCapability {
            translates: true,
            size_bytes: 80 << 20,
            ..transcriber("mine-multilingual", None)
        },
        transcriber("mine-english", Some(&["en"])),
        offer(Stage::Transcribe, "whisper", "mine-wordless", None),
        offer(Stage::Align, "wav2vec2", "my-aligner", Some(&["en"])),
        offer(Stage::Diarize, "pyannote", "my-diarizer", None),
    ]
}

fn without(stage: Stage) -> Vec<OfferedCapability> {
    let mut offered = present();
    offered.retain(|offer| offer.capability.stage != stage);
    offered
}

const STEREO: AudioFacts = AudioFacts {
    channels: 2,
    duration: 60.0,
};

fn planned_with(
    parameters: &JobParameters,
    audio: &AudioFacts,
    offered: &[OfferedCapability],
    when_missing: WhenMissing,
) -> Result<Plan, PlanError> {
    let mut next = 0;
    plan(parameters, audio, offered, when_missing, &mut || {
        next += 1;
        TaskId(Uuid::from_u128(next))
    })
}

fn planned(parameters: &JobParameters) -> Result<Plan, PlanError> {
    planned_with(parameters, &STEREO, &present(), WhenMissing::FailFast)
}

fn asked(model: &str, language: Option<&str>) -> JobParameters {
    JobParameters {
        model: model.to_owned(),
        language: language.map(str::to_owned),
        ..JobParameters::default()
    }
}

/// Every task as `name(what it needs)`, a `?` after optional ones.
fn shape(plan: &Plan) -> String {
    let name = |id: &TaskId| {
        let task = plan.tasks.iter().find(|task| task.id == *id);
        task.map_or("nothing", |task| task.name.as_str())
    };
    plan.tasks
        .iter()
        .map(|task| {
            let needs: Vec<&str> = task.needs.iter().map(name).collect();
            let optional = if task.required { "" } else { "?" };
            format!("{}{optional}({})", task.name, needs.join(" "))
        })
        .collect::<Vec<_>>()
        .join(" ")
}

fn check(parameters: &JobParameters, expected: Result<&str, PlanRefusal>) {
    let planned = planned(parameters);
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
        planned_with(&asked(model, None), &STEREO, &[], WhenMissing::FailFast)
            .unwrap_err()
            .reason
    };
    assert_eq!(refused("auto"), PlanRefusal::NothingOffered);
    assert_eq!(
        refused("Systran/faster-whisper-base"),
        PlanRefusal::NothingOffered
    );
    assert_eq!(refused("nobody/knows-this"), PlanRefusal::UnknownModel);
}

#[test]
fn a_server_that_waits_takes_jobs_for_models_that_no_worker_has() {
    let wait = |model, offered: &[OfferedCapability]| {
        planned_with(&asked(model, None), &STEREO, offered, WhenMissing::Wait)
    };
    let named = wait("openai/whisper-tiny", &[]);
    if let Ok(plan) = &named {
        assert!(
            plan.tasks[1]
                .chosen_because
                .as_ref()
                .unwrap()
                .contains("waits")
        );
    }
    let auto = wait("auto", &[]).unwrap();
    assert_eq!(auto.tasks[1].stage, Stage::Transcribe);
    assert!(!auto.tasks[1].model.is_empty());
    // A model that is there is not waited for, and a name that nobody knows would be waited for in vain.
    assert_eq!(
        wait("auto", &present()).unwrap().tasks[1].model,
        "mine-multilingual"
    );
    assert_eq!(
        wait("nobody/knows-this", &[]).unwrap_err().reason,
        PlanRefusal::UnknownModel
    );
}

#[test]
fn stages_are_there_when_they_are_asked_for_and_needed() {
    let words = |model: &str| asked(model, Some("en"));
    let speakers = |parameters: JobParameters| JobParameters {
        speaker_detection: SpeakerDetection::Diarize,
        ..parameters
    };
    for (parameters, expected) in [
        (
            words("auto"),
            "prepare() transcribe(prepare) merge(transcribe)",
        ),
        (
            words("mine-wordless"),
            "prepare() transcribe(prepare) align?(transcribe) merge(transcribe align)",
        ),
        (
            JobParameters {
                timestamps: TimestampGranularity::Segment,
                ..words("mine-wordless")
            },
            "prepare() transcribe(prepare) merge(transcribe)",
        ),
        (
            JobParameters {
                model_align: Some("my-aligner".to_owned()),
                ..words("auto")
            },
            "prepare() transcribe(prepare) align?(transcribe) merge(transcribe align)",
        ),
        (
            speakers(words("mine-wordless")),
            "prepare() transcribe(prepare) align?(transcribe) diarize?(prepare) merge(transcribe align diarize)",
        ),
        (
            JobParameters {
                speaker_detection: SpeakerDetection::PerChannel,
                ..words("mine-wordless")
            },
            "prepare() transcribe_ch0(prepare) align_ch0?(transcribe_ch0) transcribe_ch1(prepare) \
             align_ch1?(transcribe_ch1) merge(transcribe_ch0 align_ch0 transcribe_ch1 align_ch1)",
        ),
        (
            JobParameters {
                pipeline: PipelineMode::Integrated,
                ..speakers(words("mine-wordless"))
            },
            "prepare() transcribe(prepare) merge(transcribe)",
        ),
    ] {
        let plan = planned(&parameters).unwrap();
        assert_eq!(shape(&plan), expected);
        assert_eq!(plan.warnings, [""; 0], "{expected}");
    }
}

#[test]
fn tracks_are_branches_of_their_own_with_their_offsets() {
    let track = |key: &str, offset| Track {
        key: key.to_owned(),
        offset,
        duration: 5.0,
        name: None,
    };
    let parameters = JobParameters {
        tracks: vec![track("a.wav", 0.0), track("b.wav", 2.5)],
        speaker_detection: SpeakerDetection::Diarize,
        ..asked("auto", None)
    };
    let plan = planned(&parameters).unwrap();
    assert_eq!(
        shape(&plan),
        "prepare() transcribe_ch0(prepare) transcribe_ch1(prepare) merge(transcribe_ch0 transcribe_ch1)"
    );
    assert_eq!(plan.tasks[0].request["tracks"][1]["offset"], 2.5);
    assert_eq!(plan.tasks[0].request["split_channels"], false);
    assert!(plan.warnings[0].contains("each track counts as one speaker"));
}

#[test]
fn a_long_file_is_left_to_prepare_to_cut() {
    let long = AudioFacts {
        channels: 1,
        duration: 1200.0,
    };
    let parameters = JobParameters {
        chunking: Some(Chunking::default()),
        speaker_detection: SpeakerDetection::Diarize,
        ..asked("mine-wordless", Some("en"))
    };
    let plan = planned_with(&parameters, &long, &present(), WhenMissing::FailFast).unwrap();
    assert_eq!(
        shape(&plan),
        "prepare() diarize?(prepare) merge(prepare diarize)"
    );
    let request: PrepareRequest = serde_json::from_value(plan.tasks[0].request.clone()).unwrap();
    let fan_out = request.fan_out.unwrap();
    assert_eq!(fan_out.before, plan.tasks[2].id);
    let branch = &fan_out.branches[0];
    assert_eq!(branch.transcribe.model, "mine-wordless");
    assert_eq!(branch.align.as_ref().unwrap().needs, [branch.transcribe.id]);

    for (duration, chunking) in [(230.0, Chunking::default()), (1200.0, Chunking::OFF)] {
        let parameters = JobParameters {
            chunking: Some(chunking),
            ..asked("auto", None)
        };
        let audio = AudioFacts { duration, ..long };
        let plan = planned_with(&parameters, &audio, &present(), WhenMissing::FailFast).unwrap();
        assert_eq!(
            shape(&plan),
            "prepare() transcribe(prepare) merge(transcribe)"
        );
    }
}

#[test]
fn words_timed_by_attention_are_aligned_where_an_aligner_knows_the_language() {
    let mut offered = present();
    for offer in &mut offered {
        if offer.capability.model == "mine-multilingual" {
            offer.alignment_method = Some("attention".to_owned());
        }
    }
    let aligned = "prepare() transcribe(prepare) align?(transcribe) merge(transcribe align)";
    for (language, expected) in [
        (Some("en"), aligned),
        (None, aligned),
        (
            Some("de"),
            "prepare() transcribe(prepare) merge(transcribe)",
        ),
    ] {
        let parameters = asked("mine-multilingual", language);
        let plan = planned_with(&parameters, &STEREO, &offered, WhenMissing::FailFast).unwrap();
        assert_eq!(shape(&plan), expected, "{language:?}");
        // What the aligner cannot do keeps the transcriber's times.
        let request = &plan.tasks[1].request;
        assert_eq!(request["word_timestamps"], true, "{language:?}");
    }
}

#[test]
fn an_integrated_job_carries_its_further_stages_along() {
    let parameters = JobParameters {
        pipeline: PipelineMode::Integrated,
        speaker_detection: SpeakerDetection::Diarize,
        num_speakers: Some(3),
        ..asked("mine-wordless", Some("en"))
    };
    let plan = planned(&parameters).unwrap();
    let request: TranscribeRequest = serde_json::from_value(plan.tasks[1].request.clone()).unwrap();
    let integrated = request.integrated.unwrap();
    let (align, diarize) = (integrated.align.unwrap(), integrated.diarize.unwrap());
    assert_eq!((align.stage, diarize.stage), (Stage::Align, Stage::Diarize));
    assert_eq!(integrated.before, plan.tasks[2].id);
    assert_eq!(align.needs, [plan.tasks[1].id]);
    let because = plan.tasks[1].chosen_because.as_ref().unwrap();
    for stage in [&align, &diarize] {
        let of_stage = format!(
            "; {} with {}: {}",
            stage.stage,
            stage.model,
            stage.chosen_because.as_ref().unwrap()
        );
        assert!(because.contains(&of_stage), "{because}");
    }
    assert_eq!(
        diarize.request,
        json!({"num_speakers": 3, "min_speakers": 3, "max_speakers": 3, "embedding_model": null,
               "known_speakers": []})
    );
}

#[test]
fn tasks_say_why_their_model_was_chosen() {
    let parameters = JobParameters {
        speaker_detection: SpeakerDetection::Diarize,
        ..asked("auto", Some("en"))
    };
    let plan = planned(&parameters).unwrap();
    for task in &plan.tasks {
        let because = task.chosen_because.as_deref().unwrap_or_default();
        assert_eq!(
            task.engine.is_empty(),
            because.is_empty(),
            "{}: {because}",
            task.name
        );
    }
    assert!(
        plan.tasks[1]
            .chosen_because
            .as_ref()
            .unwrap()
            .contains("best model present")
    );
}

#[test]
fn words_that_cannot_be_had_are_a_warning_and_speakers_a_refusal() {
    let wordless = JobParameters {
        vocabulary: vec!["Dalston".to_owned()],
        ..asked("mine-wordless", None)
    };
    let plan = planned_with(
        &wordless,
        &STEREO,
        &without(Stage::Align),
        WhenMissing::FailFast,
    )
    .unwrap();
    let beginnings: Vec<_> = plan
        .warnings
        .iter()
        .map(|warning| warning.split(':').next().unwrap())
        .collect();
    assert_eq!(
        beginnings,
        ["Words have no times", "The vocabulary was not used"]
    );
    assert_eq!(plan.tasks[1].request["word_timestamps"], false);

    let speakers = JobParameters {
        speaker_detection: SpeakerDetection::Diarize,
        ..asked("auto", None)
    };
    let error = planned_with(
        &speakers,
        &STEREO,
        &without(Stage::Diarize),
        WhenMissing::FailFast,
    )
    .unwrap_err();
    assert_eq!(
        (error.reason, error.stage),
        (PlanRefusal::NothingOffered, Stage::Diarize)
    );
}

#[test]
fn a_pinned_model_is_never_replaced() {
    let pinned = |align: Option<&str>, diarize: Option<&str>| JobParameters {
        speaker_detection: SpeakerDetection::Diarize,
        model_align: align.map(str::to_owned),
        model_diarize: diarize.map(str::to_owned),
        ..asked("auto", Some("en"))
    };
    for (parameters, stage, reason) in [
        (
            pinned(Some("nobody/knows"), None),
            Stage::Align,
            PlanRefusal::UnknownModel,
        ),
        (
            pinned(Some("mine-english"), None),
            Stage::Align,
            PlanRefusal::Unsuitable,
        ),
        (
            pinned(None, Some("my-aligner")),
            Stage::Diarize,
            PlanRefusal::Unsuitable,
        ),
    ] {
        let error = planned(&parameters).unwrap_err();
        assert_eq!((error.stage, error.reason), (stage, reason));
    }
}
