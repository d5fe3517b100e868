//! The plan of a job: which tasks, on which engine and model, in which order. Pure: parameters, the facts of the audio
//! and the capabilities that workers announced go in, tasks and warnings come out.
//!
//! `prepare` comes first and `merge` last. Between them stands one branch per channel or track, or a single one:
//! `transcribe`, and `align` when words are to have times and the transcriber gives none, or only those of its
//! attention, and an aligner knows the language. `diarize` runs beside them. The branches of a long file are handed to
//! `prepare`, which cuts them into chunks once it knows where the silences are.

mod choose;

use dalston_schema::capability::OfferedCapability;
use dalston_schema::catalogue::Wish;
use dalston_schema::job::{
    Chunking, JobParameters, PipelineMode, SpeakerDetection, TimestampGranularity,
};
use dalston_schema::task::{
    AlignRequest, Branch, DiarizeRequest, FanOut, IntegratedStages, MergeRequest, NewTask,
    PrepareRequest, TrackSource, TranscribeRequest,
};
use dalston_schema::{Stage, TaskId};
use serde::Serialize;

use choose::{Choice, choose};

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

/// What the planner must know of the audio.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AudioFacts {
    /// Channels of the upload.
    pub channels: u16,
    /// Length in seconds, of all tracks together when there are several.
    pub duration: f64,
}

/// What to do about a model that the catalogue knows and no worker offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenMissing {
    /// Refuse the job and say how to add it.
    #[default]
    FailFast,
    /// Take the job; its task waits for a worker.
    Wait,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PlanError {
    /// What kind of refusal.
    pub reason: PlanRefusal,
    /// The stage that nothing runs.
    pub stage: Stage,
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
    /// No worker has announced anything for the stage.
    NothingOffered,
}

/// Plans a job. `new_id` makes the ids of the tasks.
///
/// # Errors
/// [`PlanError`] when no model present can do it.
pub fn plan(
    parameters: &JobParameters,
    audio: &AudioFacts,
    offered: &[OfferedCapability],
    when_missing: WhenMissing,
    new_id: &mut dyn FnMut() -> TaskId,
) -> Result<Plan, PlanError> {
    let choices = choices(parameters, offered, when_missing)?;
    let mut draft = Draft {
        parameters,
        choices: &choices,
        prepare: new_id(),
        merge: new_id(),
        new_id,
    };
    let mut branches: Vec<Branch> = channels(parameters, audio)
        .into_iter()
        .map(|channel| draft.branch(channel))
        .collect();
    let mut diarize = draft.diarize();
    let integrated = parameters.pipeline == PipelineMode::Integrated;
    if integrated {
        for (index, branch) in branches.iter_mut().enumerate() {
            // A job with several branches has no diarization, so the first one's is the only one.
            let speakers = diarize.take_if(|_| index == 0);
            draft.integrate(branch, speakers);
        }
    }
    let chunking = parameters.chunking.unwrap_or(Chunking::OFF);
    let cut = !integrated && chunking.applies_to(audio.duration);
    let mut needs = Vec::new();
    let (fan_out, tasks) = if cut {
        needs.push(draft.prepare);
        let fan_out = FanOut {
            target_seconds: chunking.target_seconds,
            minimum_seconds: chunking.minimum_seconds,
            before: draft.merge,
            branches,
        };
        (Some(fan_out), Vec::new())
    } else {
        let tasks = branches
            .into_iter()
            .flat_map(|branch| std::iter::once(branch.transcribe).chain(branch.align))
            .collect();
        (None, tasks)
    };
    let tasks: Vec<NewTask> = tasks.into_iter().chain(diarize).collect();
    needs.extend(tasks.iter().map(|task| task.id));
    let first = draft.prepare(fan_out);
    let last = draft.merge(needs);
    Ok(Plan {
        tasks: std::iter::once(first).chain(tasks).chain([last]).collect(),
        warnings: warnings(parameters, &choices),
    })
}

/// The channels or tracks to transcribe one by one, or a single `None` for the mix.
fn channels(parameters: &JobParameters, audio: &AudioFacts) -> Vec<Option<u16>> {
    let several = if parameters.tracks.is_empty() {
        match parameters.speaker_detection {
            SpeakerDetection::PerChannel => audio.channels,
            SpeakerDetection::None | SpeakerDetection::Diarize => 0,
        }
    } else {
        u16::try_from(parameters.tracks.len()).unwrap_or(u16::MAX)
    };
    if several == 0 {
        vec![None]
    } else {
        (0..several).map(Some).collect()
    }
}

/// What each stage runs with.
struct Choices<'a> {
    transcribe: Choice<'a>,
    /// `None` when words need no aligning, or nothing can align them.
    align: Option<Choice<'a>>,
    diarize: Option<Choice<'a>>,
}

fn choices<'a>(
    parameters: &JobParameters,
    offered: &'a [OfferedCapability],
    when_missing: WhenMissing,
) -> Result<Choices<'a>, PlanError> {
    let wish = |stage, translate| Wish {
        stage,
        language: parameters.language.as_deref(),
        translate,
    };
    let transcribe = choose(
        &parameters.model,
        &wish(Stage::Transcribe, parameters.translate),
        offered,
        when_missing,
    )?;
    let words = parameters.timestamps == TimestampGranularity::Word;
    // Translated words were never spoken, so there is nothing to align them with.
    let align = match &parameters.model_align {
        _ if !words || parameters.translate => None,
        Some(pinned) => Some(choose(
            pinned,
            &wish(Stage::Align, false),
            offered,
            when_missing,
        )?),
        None if transcribe.offer.native_words && !by_attention(&transcribe.offer) => None,
        // Segments have times anyway: words that cannot be had are a warning, and nothing to wait for.
        None => choose(
            "auto",
            &wish(Stage::Align, false),
            offered,
            WhenMissing::FailFast,
        )
        .ok(),
    };
    let diarized =
        parameters.speaker_detection == SpeakerDetection::Diarize && parameters.tracks.is_empty();
    let diarize = diarized
        .then(|| {
            let voices = Wish {
                stage: Stage::Diarize,
                // Voices are told apart in any language.
                language: None,
                translate: false,
            };
            let requested = parameters.model_diarize.as_deref().unwrap_or("auto");
            choose(requested, &voices, offered, when_missing)
        })
        .transpose()?;
    Ok(Choices {
        transcribe,
        align,
        diarize,
    })
}

/// Attention says roughly when a word is said; an aligner listens for it.
fn by_attention(transcriber: &OfferedCapability) -> bool {
    transcriber.alignment_method.as_deref() == Some("attention")
}

/// A plan in the making.
struct Draft<'a> {
    parameters: &'a JobParameters,
    choices: &'a Choices<'a>,
    prepare: TaskId,
    merge: TaskId,
    new_id: &'a mut dyn FnMut() -> TaskId,
}

impl Draft<'_> {
    fn prepare(&self, fan_out: Option<FanOut>) -> NewTask {
        let tracks = &self.parameters.tracks;
        let request = PrepareRequest {
            split_channels: tracks.is_empty()
                && self.parameters.speaker_detection == SpeakerDetection::PerChannel,
            tracks: tracks
                .iter()
                .map(|track| TrackSource {
                    key: track.key.clone(),
                    offset: track.offset,
                })
                .collect(),
            fan_out,
        };
        task(self.prepare, Stage::Prepare, None, Vec::new(), &request)
    }

    fn branch(&mut self, channel: Option<u16>) -> Branch {
        let suffix = channel.map_or_else(String::new, |channel| format!("_ch{channel}"));
        let parameters = self.parameters;
        let request = TranscribeRequest {
            language: parameters.language.clone(),
            translate: parameters.translate,
            prompt: parameters.prompt.clone(),
            vocabulary: parameters.vocabulary.clone(),
            temperature: parameters.temperature,
            beam_size: BEAM_SIZE,
            // Also when they are to be aligned: for languages that the aligner turns out not to know.
            word_timestamps: parameters.timestamps == TimestampGranularity::Word
                && self.choices.transcribe.offer.native_words,
            channel,
            chunk: None,
            integrated: None,
        };
        let mut transcribe = task(
            (self.new_id)(),
            Stage::Transcribe,
            Some(&self.choices.transcribe),
            vec![self.prepare],
            &request,
        );
        transcribe.name.push_str(&suffix);
        let align = self.choices.align.as_ref().map(|choice| {
            let request = AlignRequest {
                transcription: transcribe.name.clone(),
                language: parameters.language.clone(),
                channel,
                chunk: None,
            };
            let mut align = task(
                (self.new_id)(),
                Stage::Align,
                Some(choice),
                vec![transcribe.id],
                &request,
            );
            align.name.push_str(&suffix);
            align
        });
        Branch { transcribe, align }
    }

    fn diarize(&mut self) -> Option<NewTask> {
        let choice = self.choices.diarize.as_ref()?;
        let parameters = self.parameters;
        let request = DiarizeRequest {
            num_speakers: parameters.num_speakers,
            min_speakers: parameters.num_speakers.or(parameters.min_speakers),
            max_speakers: parameters.num_speakers.or(parameters.max_speakers),
            embedding_model: None,
            known_speakers: parameters.known_speaker_references.clone(),
        };
        Some(task(
            (self.new_id)(),
            Stage::Diarize,
            Some(choice),
            vec![self.prepare],
            &request,
        ))
    }

    /// Makes one task of a branch: what followed it becomes part of its request, and its model of the reasons.
    fn integrate(&self, branch: &mut Branch, diarize: Option<NewTask>) {
        let align = branch.align.take();
        if align.is_none() && diarize.is_none() {
            return;
        }
        for stage in [&align, &diarize].into_iter().flatten() {
            let because = branch.transcribe.chosen_because.get_or_insert_default();
            because.push_str(&format!(
                "; {} with {}: {}",
                stage.stage,
                stage.model,
                stage.chosen_because.as_deref().unwrap_or_default()
            ));
        }
        let stages = IntegratedStages {
            align,
            diarize,
            before: self.merge,
        };
        branch.transcribe.request["integrated"] = as_json(&stages);
    }

    fn merge(&self, needs: Vec<TaskId>) -> NewTask {
        task(
            self.merge,
            Stage::Merge,
            None,
            needs,
            &MergeRequest::default(),
        )
    }
}

fn warnings(parameters: &JobParameters, choices: &Choices<'_>) -> Vec<String> {
    let transcriber = &choices.transcribe.offer;
    let model = &transcriber.capability.model;
    let mut warnings = Vec::new();
    if parameters.speaker_detection == SpeakerDetection::Diarize && !parameters.tracks.is_empty() {
        warnings.push(
            "Speakers were not told apart by voice: each track counts as one speaker.".to_owned(),
        );
    }
    if parameters.timestamps == TimestampGranularity::Word
        && !transcriber.native_words
        && choices.align.is_none()
    {
        let why = if parameters.translate {
            "translated words are not in the audio"
        } else {
            "no worker offers alignment"
        };
        warnings.push(format!(
            "Words have no times: {model} gives none and {why}; segments have times."
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
    choice: Option<&Choice<'_>>,
    needs: Vec<TaskId>,
    request: &impl Serialize,
) -> NewTask {
    let (engine, model, chosen_because) = match choice {
        Some(Choice { offer, because }) => (
            offer.capability.engine.clone(),
            offer.capability.model.clone(),
            Some(because.clone()),
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
        // A transcript without word times or speakers is worth more than none.
        required: !matches!(stage, Stage::Align | Stage::Diarize),
        max_attempts: match stage {
            Stage::Prepare => PREPARE_ATTEMPTS,
            Stage::Transcribe | Stage::Align | Stage::Diarize | Stage::Merge => MAX_ATTEMPTS,
        },
        chosen_because,
        request: as_json(request),
    }
}

/// Requests are plain structs of numbers and texts, which always have a JSON form.
fn as_json(request: &impl Serialize) -> serde_json::Value {
    serde_json::to_value(request).unwrap_or_default()
}

#[cfg(test)]
mod tests;
