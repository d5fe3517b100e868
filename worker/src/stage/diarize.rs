//! The `diarize` stage: prepared audio goes to the models that tell voices apart, turns come back. It reads nothing of the
//! transcription, so it runs beside it.

use std::path::Path;
use std::sync::Arc;

use dalston_audio::{AudioInput, PrepareOptions};
use dalston_engines::diarize::{
    Diarization, DiarizeRequest as EngineRequest, Diarizer, KnownSpeaker,
};
use dalston_engines::{Control, WavSource};
use dalston_schema::db::tasks::Completion;
use dalston_schema::job::SpeakerReference;
use dalston_schema::task::{DiarizeRequest, DiarizeResponse, PreparedAudio, SpeakerTurn};
use dalston_schema::{ArtifactKey, Stage};
use tokio::time::Instant;

use super::portion::Portion;
use super::{TaskContext, answer, blocking, channel_file};
use crate::coverage::total;
use crate::failure::{StageError, StageResult};
use crate::model_pool::ModelKey;
use crate::stage::transcribe::plain;
use crate::times::milliseconds;

pub async fn run(context: &TaskContext<'_>) -> StageResult<Completion> {
    let request: DiarizeRequest = context.request()?;
    let prepare = context.prepared().await?;
    let audio = channel_file(&prepare, None)?;
    let portion = Portion::whole(context.progress);
    answer(&diarize(context, &context.model_key(), &request, audio, &portion).await?)
}

/// Tells the speakers of a prepared file apart with the segmentation model `key`.
///
/// # Errors
/// [`StageError::Stopped`], else why it failed.
pub async fn diarize(
    context: &TaskContext<'_>,
    key: &ModelKey,
    request: &DiarizeRequest,
    audio: &PreparedAudio,
    portion: &Portion,
) -> StageResult<DiarizeResponse> {
    let embedding_key = context
        .environment
        .models
        .component(Stage::Diarize, request.embedding_model.as_deref())?;
    let response = DiarizeResponse {
        engine: key.engine.clone(),
        model: key.model.clone(),
        embedding_model: embedding_key.model.clone(),
        device: context.device(),
        ..DiarizeResponse::default()
    };
    if audio.speech_regions.is_empty() {
        return Ok(response);
    }
    let started = Instant::now();
    let (segmentation, embedding) = (
        context.acquire(key).await?,
        context.acquire(&embedding_key).await?,
    );
    let wrong = |key: &ModelKey, what: &str| {
        StageError::permanent(format!("The model {} is no {what}.", key.model))
    };
    let diarizer = Diarizer::new(
        segmentation
            .clone()
            .into_speaker_segmentation()
            .ok_or_else(|| wrong(key, "speaker segmentation"))?,
        embedding
            .clone()
            .into_speaker_embedding()
            .ok_or_else(|| wrong(&embedding_key, "speaker embedding"))?,
    );
    let mut known = Vec::with_capacity(request.known_speakers.len());
    for (index, reference) in request.known_speakers.iter().enumerate() {
        known.push(known_speaker(context, reference, index).await?);
    }
    let path = context.fetch_prepared(audio).await?;
    let (count, duration) = (|n: u32| n as usize, audio.duration);
    let portion = portion.clone();
    let control = Control {
        cancel: context.stop.flag().clone(),
        progress: Some(Arc::new(move |seconds| portion.report(seconds, duration))),
        ..Control::default()
    };
    let asked = request.clone();
    let diarization = blocking(move || {
        Ok(diarizer.diarize(EngineRequest {
            audio: Arc::new(WavSource::open(&path)?),
            num_speakers: asked.num_speakers.map(count),
            min_speakers: asked.min_speakers.map(count),
            max_speakers: asked.max_speakers.map(count),
            known,
            control,
            time_limit: None,
        })?)
    })
    .await?;
    let seconds = started.elapsed().as_secs_f64();
    context
        .environment
        .measures
        .observe_speed(Stage::Diarize, &key.model, duration, seconds);
    Ok(DiarizeResponse {
        engine: response.engine,
        model: response.model,
        embedding_model: response.embedding_model,
        device: response.device,
        ..told(&diarization, total(&audio.speech_regions))
    })
}

/// A clip of a known speaker, as the models read audio.
async fn known_speaker(
    context: &TaskContext<'_>,
    reference: &SpeakerReference,
    index: usize,
) -> StageResult<KnownSpeaker> {
    let storage = &context.environment.storage;
    let key = ArtifactKey::from_stored(&reference.key);
    let name = format!("speaker{index}");
    let clip = context.scratch.fetch(storage, &key, &name).await?;
    let wav = context.scratch.file(&format!("{name}.wav"));
    let stop = context.stop.clone();
    let audio = blocking(move || {
        decode(&clip, &wav, &stop)?;
        Ok(WavSource::open(&wav)?)
    })
    .await?;
    Ok(KnownSpeaker {
        name: reference.name.clone(),
        audio: Arc::new(audio),
    })
}

fn decode(clip: &Path, wav: &Path, stop: &crate::stop::Stop) -> StageResult<()> {
    dalston_audio::prepare(
        AudioInput::open(clip)?,
        &PrepareOptions::default(),
        &mut |_| Ok(std::io::BufWriter::new(std::fs::File::create(wav)?)),
        &mut |_| {},
        stop.raised(),
    )?;
    Ok(())
}

/// What the engine found, in the words of the contract. `speech_seconds` is what voice activity detection found.
fn told(diarization: &Diarization, speech_seconds: f64) -> DiarizeResponse {
    let id = |speaker: usize| format!("SPEAKER_{speaker:02}");
    let speakers: Vec<String> = (0..diarization.speakers.len()).map(id).collect();
    let named = diarization.speakers.iter().enumerate();
    DiarizeResponse {
        turns: diarization
            .turns
            .iter()
            .map(|turn| SpeakerTurn {
                speaker: id(turn.speaker),
                start: milliseconds(turn.start),
                end: milliseconds(turn.end),
                confidence: Some(plain(turn.confidence)),
                overlapping_speakers: turn.overlapping.iter().copied().map(id).collect(),
            })
            .collect(),
        names: named
            .filter_map(|(index, speaker)| Some((id(index), speaker.name.clone()?)))
            .collect(),
        num_speakers: u32::try_from(speakers.len()).unwrap_or(u32::MAX),
        speakers,
        overlap_duration: milliseconds(diarization.overlap_seconds),
        overlap_ratio: if speech_seconds > 0.0 {
            (diarization.overlap_seconds / speech_seconds).clamp(0.0, 1.0)
        } else {
            0.0
        },
        warnings: diarization.warnings.clone(),
        ..DiarizeResponse::default()
    }
}

#[cfg(test)]
mod tests {
    use dalston_engines::diarize::{DiarizedSpeaker, SpeakerTurn as EngineTurn};

    use super::*;

    #[test]
    fn turns_names_and_overlap_are_told_by_speaker_id() {
        let speaker = |name: Option<&str>| DiarizedSpeaker {
            name: name.map(str::to_owned),
            speech_seconds: 5.0,
            embedding: vec![1.0],
            known_similarity: None,
        };
        let turn = |speaker, start, end, overlapping| EngineTurn {
            start,
            end,
            speaker,
            confidence: 0.9,
            overlapping,
        };
        let response = told(
            &Diarization {
                turns: vec![turn(0, 0.0, 5.0, vec![1]), turn(1, 4.0, 9.0, vec![0])],
                speakers: vec![speaker(None), speaker(Some("Ada"))],
                overlap_seconds: 1.0,
                warnings: vec!["a warning".to_owned()],
            },
            10.0,
        );
        assert_eq!(response.speakers, ["SPEAKER_00", "SPEAKER_01"]);
        assert_eq!(response.num_speakers, 2);
        assert_eq!(response.names["SPEAKER_01"], "Ada");
        assert_eq!(response.turns[1].speaker, "SPEAKER_01");
        assert_eq!(response.turns[1].overlapping_speakers, ["SPEAKER_00"]);
        assert!((response.overlap_ratio - 0.1).abs() < 1e-9);
        assert_eq!(response.warnings, ["a warning"]);
    }
}
