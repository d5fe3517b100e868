//! What a task was given and answered, in the public contract's shape. It is made when somebody reads it: workers keep
//! what they need, and files are named by the ids of those that made them.

use dalston_schema::task::{PreparedAudio, Task};
use dalston_schema::{Job, Stage, TaskId};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::job_object::{engine_id, milliseconds};
use crate::timestamp::Timestamp;

/// Samples a second of prepared audio.
const PREPARED_SAMPLE_RATE: u32 = 16_000;

/// A task that was done before, and what it answered.
pub struct Earlier<'a> {
    /// The task.
    pub task: &'a Task,
    /// Its answer.
    pub response: Value,
}

/// A file that a task reads or writes.
struct Artifact {
    id: String,
    key: String,
    media_type: Option<&'static str>,
    role: &'static str,
    channel: Option<u16>,
    producer: &'static str,
    media: Value,
}

impl Artifact {
    fn entry(&self) -> Value {
        without_nulls(json!({
            "artifact_id": self.id, "kind": "audio", "storage_locator": self.key, "media_type": self.media_type,
            "role": self.role, "channel": self.channel, "producer_stage": self.producer,
        }))
    }

    fn media(&self) -> Value {
        let mut media = self.media.clone();
        media["artifact_id"] = Value::String(self.id.clone());
        without_nulls(media)
    }

    fn selector(&self) -> Value {
        without_nulls(json!({
            "producer_stage": self.producer, "kind": "audio", "role": self.role, "channel": self.channel,
            "required": true,
        }))
    }
}

/// What the task was given: its configuration, its audio, and what those before it answered.
#[must_use]
pub fn request(job: &Job, task: &Task, config: &Value, earlier: &[Earlier<'_>]) -> Value {
    let audio = match task.stage {
        Stage::Prepare => originals(job, config),
        Stage::Transcribe | Stage::Align | Stage::Diarize => heard(earlier, config),
        Stage::Merge => Vec::new(),
    };
    let slots: Vec<String> = (0..audio.len())
        .map(|at| match at {
            0 => "audio".to_owned(),
            at => format!("audio_{at}"),
        })
        .collect();
    let bound = || slots.iter().zip(&audio);
    let previous: Map<String, Value> = earlier
        .iter()
        .map(|before| {
            let data = data(before.task, &before.response, earlier);
            (before.task.name.clone(), data)
        })
        .collect();
    without_nulls(json!({
        "task_id": task.id,
        "job_id": task.job_id,
        "payload": audio.first().map(|audio| json!({"media": audio.media()})),
        "request_bindings": bound()
            .map(|(slot, audio)| json!({"slot": slot, "selector": audio.selector()}))
            .collect::<Vec<_>>(),
        "resolved_artifact_ids": bound()
            .map(|(slot, audio)| (slot.clone(), json!(audio.id)))
            .collect::<Map<_, _>>(),
        "artifact_index": audio
            .iter()
            .map(|audio| (audio.id.clone(), audio.entry()))
            .collect::<Map<_, _>>(),
        "previous_responses": previous,
        "config": config,
    }))
}

/// What the task answered, with the files it made.
#[must_use]
pub fn response(task: &Task, answer: &Value, earlier: &[Earlier<'_>]) -> Value {
    let produced = match task.stage {
        Stage::Prepare => prepared(task, answer),
        Stage::Transcribe | Stage::Align | Stage::Diarize | Stage::Merge => Vec::new(),
    };
    let seconds = milliseconds(task.started_at, task.completed_at)
        .map(|milliseconds| milliseconds as f64 / 1000.0);
    json!({
        "task_id": task.id,
        "completed_at": task.completed_at.map(|time| Timestamp(time).text()),
        "processing_time_seconds": seconds,
        "data": data(task, answer, earlier),
        "produced_artifacts": produced.iter().map(Artifact::entry).collect::<Vec<_>>(),
        "produced_artifact_ids": produced.iter().map(|audio| audio.id.as_str()).collect::<Vec<_>>(),
    })
}

/// The uploaded file, or the files of the tracks.
fn originals(job: &Job, config: &Value) -> Vec<Artifact> {
    let tracks = config["tracks"].as_array().map_or(&[][..], Vec::as_slice);
    let original = |id: String, key: &str, media: Value| Artifact {
        id,
        key: key.to_owned(),
        media_type: None,
        role: "original",
        channel: None,
        producer: "upload",
        media,
    };
    if tracks.is_empty() {
        let media = json!({
            "format": job.audio_format, "duration": job.audio_duration_seconds,
            "sample_rate": job.audio_sample_rate, "channels": job.audio_channels, "bit_depth": job.audio_bit_depth,
        });
        let key = job.audio_key.as_deref();
        return key
            .map(|key| original(format!("{}:original", job.id), key, media))
            .into_iter()
            .collect();
    }
    tracks
        .iter()
        .enumerate()
        .filter_map(|(at, track)| {
            let key = track["key"].as_str()?;
            let format = key.rsplit_once('.').map(|(_, format)| format);
            let id = format!("{}:track{at}", job.id);
            Some(original(id, key, json!({"format": format})))
        })
        .collect()
}

/// The prepared file that a stage with this configuration hears.
fn heard(earlier: &[Earlier<'_>], config: &Value) -> Vec<Artifact> {
    let channel = config["channel"].as_u64();
    earlier
        .iter()
        .filter(|before| before.task.stage == Stage::Prepare)
        .flat_map(|before| prepared(before.task, &before.response))
        .find(|audio| channel.is_none() || audio.channel.map(u64::from) == channel)
        .into_iter()
        .collect()
}

/// The files that `prepare` made.
fn prepared(task: &Task, answer: &Value) -> Vec<Artifact> {
    let files: Vec<PreparedAudio> =
        Deserialize::deserialize(&answer["channel_files"]).unwrap_or_default();
    files
        .into_iter()
        .map(|file| {
            let name = file.key.rsplit('/').next().unwrap_or_default();
            Artifact {
                id: format!("{}:{}", task.id, name.trim_end_matches(".wav")),
                media_type: Some("audio/wav"),
                role: "prepared",
                channel: file.channel,
                producer: Stage::Prepare.as_str(),
                media: json!({
                    "format": "wav", "duration": file.duration, "sample_rate": PREPARED_SAMPLE_RATE, "channels": 1,
                    "bit_depth": 16,
                }),
                key: file.key,
            }
        })
        .collect()
}

/// An answer with the contract's names and fields.
fn data(task: &Task, answer: &Value, earlier: &[Earlier<'_>]) -> Value {
    let Value::Object(fields) = answer else {
        return answer.clone();
    };
    let mut fields = fields.clone();
    if fields.remove("engine").is_some() || task.stage == Stage::Prepare {
        fields.insert("engine_id".to_owned(), json!(engine_id(task)));
    }
    match task.stage {
        Stage::Prepare => complete_prepare(task, &mut fields),
        Stage::Transcribe => return transcribed(task, fields, earlier),
        Stage::Align => complete_align(&mut fields),
        Stage::Diarize => complete(
            &mut fields,
            [("skipped", json!(false)), ("skip_reason", Value::Null)],
        ),
        Stage::Merge => {}
    }
    Value::Object(fields)
}

/// Adds the fields that are not there.
fn complete<const N: usize>(fields: &mut Map<String, Value>, more: [(&str, Value); N]) {
    for (name, value) in more {
        fields.entry(name).or_insert(value);
    }
}

fn complete_prepare(task: &Task, fields: &mut Map<String, Value>) {
    let made = prepared(task, &Value::Object(fields.clone()));
    let mut regions = Vec::new();
    if let Some(files) = fields
        .get_mut("channel_files")
        .and_then(Value::as_array_mut)
    {
        for (file, audio) in files.iter_mut().zip(&made) {
            regions.push(file["speech_regions"].clone());
            let (Value::Object(file), Value::Object(media)) = (file, audio.media()) else {
                continue;
            };
            file.extend(media);
        }
    }
    let source = fields.remove("source").unwrap_or_default();
    let split = made.iter().any(|audio| audio.channel.is_some());
    complete(
        fields,
        [
            ("source_media", source),
            ("split_channels", json!(split)),
            // Of one file; several have their own.
            (
                "speech_regions",
                match regions.as_slice() {
                    [only] => only.clone(),
                    _ => Value::Null,
                },
            ),
            ("skipped", json!(false)),
            ("skip_reason", Value::Null),
        ],
    );
}

/// A transcription; where the same task ran further stages, all of their answers.
fn transcribed(task: &Task, mut fields: Map<String, Value>, earlier: &[Earlier<'_>]) -> Value {
    let alignment = fields.remove("alignment").filter(Value::is_object);
    let diarization = fields.remove("diarization").filter(Value::is_object);
    complete_transcription(&mut fields, earlier);
    if alignment.is_none() && diarization.is_none() {
        return Value::Object(fields);
    }
    let mut stages = vec![Stage::Transcribe.as_str()];
    let mut combined = Map::new();
    combined.insert(stages[0].to_owned(), Value::Object(fields));
    for (stage, answer) in [(Stage::Align, alignment), (Stage::Diarize, diarization)] {
        let Some(mut answer) = answer else { continue };
        // These were run by engines of their own, which only the answers name.
        let engine = answer["engine"].take();
        let shaped = Task {
            stage,
            engine: engine.as_str().unwrap_or_default().to_owned(),
            ..task.clone()
        };
        stages.push(stage.as_str());
        combined.insert(stage.as_str().to_owned(), data(&shaped, &answer, earlier));
    }
    combined.insert("stages_completed".to_owned(), json!(stages));
    Value::Object(combined)
}

fn complete_transcription(fields: &mut Map<String, Value>, earlier: &[Earlier<'_>]) {
    let mut words = false;
    if let Some(segments) = fields.get_mut("segments").and_then(Value::as_array_mut) {
        for segment in segments.iter_mut().filter_map(Value::as_object_mut) {
            words |= segment.get("words").is_some_and(Value::is_array);
            complete(segment, [("metadata", json!({}))]);
        }
    }
    let part = fields.get("chunk").filter(|chunk| chunk.is_object());
    let duration = match part.map(|part| (part["start"].as_f64(), part["end"].as_f64())) {
        Some((Some(start), Some(end))) => Some(end - start),
        _ => heard(earlier, &Value::Object(fields.clone()))
            .first()
            .and_then(|audio| audio.media["duration"].as_f64()),
    };
    let language = fields.get("language").and_then(Value::as_str);
    let languages = language.filter(|code| !code.is_empty()).map(|code| {
        json!([{"code": code, "confidence": fields.get("language_confidence"), "is_primary": true}])
    });
    complete(
        fields,
        [
            ("schema_version", json!("1")),
            ("duration", json!(duration)),
            (
                "timestamp_granularity",
                json!(if words { "word" } else { "segment" }),
            ),
            ("languages", json!(languages)),
            ("metadata", json!({})),
        ],
    );
}

/// Words whose sound was not found have times all the same, and no confidence.
fn complete_align(fields: &mut Map<String, Value>) {
    let segments = fields.get("segments").and_then(Value::as_array);
    let segments = segments.map_or(&[][..], Vec::as_slice);
    let texts: Vec<&str> = segments
        .iter()
        .filter_map(|segment| segment["text"].as_str())
        .collect();
    let aligned = fields.get("word_timestamps") == Some(&Value::Bool(true));
    let unaligned: Vec<Value> = segments
        .iter()
        .filter_map(|segment| segment["words"].as_array())
        .flatten()
        .filter(|word| aligned && word["confidence"].as_f64().unwrap_or_default() == 0.0)
        .map(|word| word["text"].clone())
        .collect();
    let text = texts.join(" ");
    complete(
        fields,
        [("text", json!(text)), ("unaligned_words", json!(unaligned))],
    );
}

/// The same without keys that are null, at any depth.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name, without_nulls(value)))
            .collect(),
        Value::Array(values) => values.into_iter().map(without_nulls).collect(),
        value => value,
    }
}

/// The tasks that had to be done before this one, directly or not, in the order of the job.
#[must_use]
pub fn before<'a>(task: &Task, tasks: &'a [Task]) -> Vec<&'a Task> {
    let mut needed = task.dependencies.clone();
    let mut at = 0;
    while let Some(id) = needed.get(at).copied() {
        if let Some(found) = tasks.iter().find(|task| task.id == id) {
            for id in &found.dependencies {
                if !needed.contains(id) {
                    needed.push(*id);
                }
            }
        }
        at += 1;
    }
    tasks
        .iter()
        .filter(|task| needed.contains(&task.id))
        .collect()
}

/// Puts answers to their tasks.
#[must_use]
pub fn earlier(tasks: Vec<&Task>, mut answers: Vec<(TaskId, Value)>) -> Vec<Earlier<'_>> {
    tasks
        .into_iter()
        .filter_map(|task| {
            let at = answers.iter().position(|(id, _)| *id == task.id)?;
            let (_, response) = answers.swap_remove(at);
            Some(Earlier { task, response })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use dalston_schema::{JobId, TaskStatus};

    use super::*;

    fn task(stage: Stage, engine: &str, dependencies: &[TaskId]) -> Task {
        Task {
            id: TaskId::generate(),
            job_id: JobId::generate(),
            stage,
            name: stage.as_str().to_owned(),
            engine: engine.to_owned(),
            model: String::new(),
            status: TaskStatus::Completed,
            required: true,
            dependencies: dependencies.to_vec(),
            retries: 0,
            max_attempts: 3,
            ready_at: None,
            started_at: None,
            completed_at: None,
            error: None,
            chosen_because: None,
        }
    }

    fn aligned() -> Value {
        json!({
            "segments": [
                {"text": "good morning", "words": [
                    {"text": "good", "confidence": 0.8}, {"text": "morning", "confidence": 0.0}]},
                {"text": "…", "words": null},
            ],
            "word_timestamps": true, "engine": "wav2vec2", "skipped": false, "skip_reason": null,
        })
    }

    #[test]
    fn words_that_were_not_found_are_named() {
        let align = task(Stage::Align, "wav2vec2", &[]);
        let data = data(&align, &aligned(), &[]);
        assert_eq!(data["unaligned_words"], json!(["morning"]));
        assert_eq!(data["text"], "good morning …");
        assert_eq!(data["engine_id"], "wav2vec2");
    }

    #[test]
    fn a_task_that_ran_several_stages_answers_for_each() {
        let transcribe = task(Stage::Transcribe, "whisper", &[]);
        let answer = json!({
            "text": "good morning", "language": "en", "engine": "whisper", "segments": [],
            "alignment": aligned(), "diarization": {"turns": [], "speakers": [], "engine": "pyannote"},
            "chunk": {"index": 1, "start": 60.0, "end": 90.0},
        });
        let data = data(&transcribe, &answer, &[]);
        assert_eq!(
            data["stages_completed"],
            json!(["transcribe", "align", "diarize"])
        );
        assert_eq!(data["transcribe"]["duration"], 30.0);
        assert_eq!(data["transcribe"]["timestamp_granularity"], "segment");
        assert_eq!(data["align"]["engine_id"], "wav2vec2");
        assert_eq!(data["diarize"]["engine_id"], "pyannote");
        assert_eq!(data["diarize"]["skipped"], false);
        assert!(data["align"].get("engine").is_none());
    }

    #[test]
    fn a_branch_hears_its_channel_and_knows_all_that_came_before() {
        let prepare = task(Stage::Prepare, "", &[]);
        let transcribe = task(Stage::Transcribe, "whisper", &[prepare.id]);
        let align = task(Stage::Align, "wav2vec2", &[transcribe.id]);
        let tasks = [prepare, transcribe, align];
        let files = json!({"channel_files": [
            {"key": "jobs/x/prepared_ch0.wav", "channel": 0, "duration": 1.0},
            {"key": "jobs/x/prepared_ch1.wav", "channel": 1, "duration": 2.0}]});
        let before = before(&tasks[2], &tasks);
        assert_eq!(before.len(), 2);
        let earlier = earlier(before, vec![(tasks[0].id, files)]);
        let heard = heard(&earlier, &json!({"channel": 1}));
        assert_eq!(heard.len(), 1);
        assert_eq!(heard[0].id, format!("{}:prepared_ch1", tasks[0].id));
        assert_eq!(heard[0].media()["duration"], 2.0);
    }
}
