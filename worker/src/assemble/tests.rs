#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use dalston_schema::job::SpeakerDetection;
use dalston_schema::task::{PreparedAudio, SourceAudio};

use super::*;

fn track(channel: Option<u16>, speech_regions: &[(f64, f64)]) -> PreparedAudio {
    PreparedAudio {
        key: "jobs/x/prepared.wav".into(),
        channel,
        duration: 10.0,
        rms_dbfs: -20.0,
        speech_regions: speech_regions.to_vec(),
        ..PreparedAudio::default()
    }
}

fn prepared(channel_files: Vec<PreparedAudio>) -> PrepareResponse {
    PrepareResponse {
        source: SourceAudio {
            format: "wav".into(),
            codec: "pcm_s16le".into(),
            duration: 10.0,
            sample_rate: 44_100,
            channels: 2,
            bit_depth: Some(16),
        },
        channel_files,
        speech_ratio: 0.5,
        warnings: vec!["from prepare".into()],
    }
}

fn segment(start: f64, end: f64, text: &str) -> Segment {
    Segment {
        start,
        end,
        text: text.into(),
        words: Some(
            text.split_whitespace()
                .map(|word| Word {
                    text: format!(" {word}"),
                    start,
                    end,
                    ..Word::default()
                })
                .collect(),
        ),
        ..Segment::default()
    }
}

fn transcription(channel: Option<u16>, segments: Vec<Segment>) -> TranscribeResponse {
    TranscribeResponse {
        text: segments
            .iter()
            .map(|segment| segment.text.as_str())
            .collect::<String>(),
        segments,
        language: "en".into(),
        language_confidence: Some(0.987_654),
        language_source: "detected".into(),
        engine: "whisper".into(),
        model: "whisper-nano".into(),
        device: "cpu".into(),
        alignment_method: Some("attention".into()),
        channel,
        warnings: vec!["from the engine".into()],
        ..TranscribeResponse::default()
    }
}

/// Words at these times, each 0.4 s long.
fn words_at(words: &[(&str, f64)]) -> Vec<Word> {
    words
        .iter()
        .map(|&(text, start)| Word {
            text: text.to_owned(),
            start,
            end: start + 0.4,
            ..Word::default()
        })
        .collect()
}

/// A placed segment of these words, each 0.4 s long.
pub(super) fn placed(words: &[(&str, f64)]) -> TranscriptSegment {
    let words = words_at(words);
    let engine = Segment {
        start: words[0].start,
        end: words[words.len() - 1].end,
        text: words
            .iter()
            .map(|word| word.text.as_str())
            .collect::<Vec<_>>()
            .join(" "),
        words: Some(words),
        tokens: Some(vec![1, 2]),
        ..Segment::default()
    };
    place(engine, &PreparedAudio::default(), 1e6)
}

fn assembled(
    parameters: &JobParameters,
    prepare: &PrepareResponse,
    transcriptions: Vec<TranscribeResponse>,
) -> Transcript {
    let named = transcriptions
        .into_iter()
        .enumerate()
        .map(|(index, transcription)| (format!("transcribe_{index}"), transcription))
        .collect();
    assembled_from(parameters, prepare, named, Vec::new(), None)
}

fn assembled_from(
    parameters: &JobParameters,
    prepare: &PrepareResponse,
    transcriptions: Vec<(String, TranscribeResponse)>,
    alignments: Vec<AlignResponse>,
    diarization: Option<DiarizeResponse>,
) -> Transcript {
    let at = |seconds: i64| DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap();
    assemble(Parts {
        job_id: JobId(Default::default()),
        created_at: at(0),
        completed_at: at(5),
        parameters,
        prepare,
        transcriptions,
        alignments,
        diarization,
        stages: vec![Stage::Merge, Stage::Transcribe, Stage::Prepare],
        skipped: vec![("diarize".into(), Some("no model".into()))],
    })
}

#[test]
fn one_transcription_keeps_its_text_and_numbers_its_segments() {
    let prepare = prepared(vec![track(None, &[(0.0, 4.0)])]);
    let transcript = assembled(
        &JobParameters::default(),
        &prepare,
        vec![transcription(
            None,
            vec![
                segment(0.0, 1.500_04, " Hello there."),
                segment(1.5, 4.0, " Bye."),
            ],
        )],
    );
    assert_eq!(transcript.text, "Hello there. Bye.");
    let ids: Vec<_> = transcript.segments.iter().map(|s| s.id.as_str()).collect();
    assert_eq!(ids, ["seg_000", "seg_001"]);
    assert_eq!(transcript.segments[0].text, "Hello there.");
    assert_eq!(transcript.segments[0].end, 1.5);
    let words = transcript.segments[0].words.as_ref().unwrap();
    assert_eq!(words[1].text, "there.");
    let metadata = &transcript.metadata;
    assert_eq!(metadata.language_confidence, Some(0.988));
    assert_eq!(metadata.pipeline_stages, ["prepare", "transcribe", "merge"]);
    assert!(metadata.word_timestamps && metadata.word_timestamps_requested);
    assert_eq!(metadata.speaker_count, 0);
    assert_eq!(transcript.stats().word_count, 3);
}

#[test]
fn every_key_of_the_contract_is_in_the_json() {
    let prepare = prepared(vec![track(None, &[])]);
    let transcript = assembled(
        &JobParameters::default(),
        &prepare,
        vec![transcription(None, vec![segment(0.0, 1.0, "Hi")])],
    );
    let json = serde_json::to_value(&transcript).unwrap();
    let keys = |value: &serde_json::Value| {
        let mut keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys.join(" ")
    };
    assert_eq!(
        keys(&json),
        "job_id metadata paragraphs pii_entities pii_metadata redacted_text segments speakers summary text version"
    );
    assert_eq!(
        keys(&json["metadata"]),
        "audio_channels audio_duration completed_at created_at language language_confidence language_source \
         languages pipeline_stages pipeline_warnings sample_rate speaker_count speaker_detection word_timestamps \
         word_timestamps_requested"
    );
    assert_eq!(
        keys(&json["segments"][0]),
        "avg_logprob compression_ratio confidence emotion emotion_confidence end events id language no_speech_prob \
         redacted_text speaker speaker_confidence start temperature text tokens words"
    );
}

#[test]
fn times_stay_inside_the_audio_and_empty_segments_vanish() {
    let prepare = prepared(vec![track(None, &[])]);
    let transcript = assembled(
        &JobParameters::default(),
        &prepare,
        vec![transcription(
            None,
            vec![
                segment(-0.2, 3.0, "a"),
                segment(4.0, 5.0, "  "),
                segment(9.0, 30.0, "b"),
                segment(12.0, 11.0, "c"),
            ],
        )],
    );
    let times: Vec<_> = transcript
        .segments
        .iter()
        .map(|segment| (segment.start, segment.end))
        .collect();
    assert_eq!(times, [(0.0, 3.0), (9.0, 10.0), (10.0, 10.0)]);
}

#[test]
fn channels_interleave_by_time_and_name_their_speakers() {
    let parameters = JobParameters {
        speaker_detection: SpeakerDetection::PerChannel,
        known_speaker_names: vec!["Ada".into()],
        ..JobParameters::default()
    };
    let prepare = prepared(vec![
        track(Some(0), &[(0.0, 6.0)]),
        track(Some(1), &[(2.0, 9.0)]),
    ]);
    let transcript = assembled(
        &parameters,
        &prepare,
        vec![
            transcription(Some(1), vec![segment(2.0, 4.0, "two")]),
            transcription(
                Some(0),
                vec![segment(0.0, 2.0, "one"), segment(4.0, 6.0, "three")],
            ),
        ],
    );
    assert_eq!(transcript.text, "one two three");
    let speakers: Vec<_> = transcript
        .segments
        .iter()
        .map(|segment| segment.speaker.clone().unwrap())
        .collect();
    assert_eq!(speakers, ["SPEAKER_00", "SPEAKER_01", "SPEAKER_00"]);
    assert_eq!(transcript.speakers[0].label.as_deref(), Some("Ada"));
    assert_eq!(transcript.speakers[1].channel, Some(1));
    assert_eq!(transcript.metadata.speaker_count, 2);
    let warnings = &transcript.metadata.pipeline_warnings;
    assert!(warnings.contains(&"ch0: from the engine".to_owned()));
    assert!(
        warnings.contains(
            &"ch1: 5.0s of detected speech was not transcribed (regions: 4.0-9.0s)".to_owned()
        ),
        "{warnings:?}"
    );
    assert!(!warnings.iter().any(|warning| warning.starts_with("ch0: 0")));
}

#[test]
fn chunks_of_one_file_join_in_their_order_without_speakers() {
    let prepare = prepared(vec![track(None, &[])]);
    let chunk = |index, start, end, text| TranscribeResponse {
        chunk: Some(dalston_schema::task::Chunk { index, start, end }),
        ..transcription(None, vec![segment(start, end - 1.0, text)])
    };
    let transcript = assembled(
        &JobParameters::default(),
        &prepare,
        vec![chunk(1, 5.0, 10.0, "second"), chunk(0, 0.0, 5.0, "first")],
    );
    assert_eq!(transcript.text, "first second");
    assert!(transcript.speakers.is_empty());
    assert_eq!(
        transcript.metadata.languages.as_ref().map(Vec::len),
        Some(1)
    );
}

#[test]
fn words_on_both_sides_of_a_seam_keep_their_order() {
    let prepare = prepared(vec![track(None, &[])]);
    let part = |index, words: &[(&str, f64)]| {
        let words = words_at(words);
        let (start, end) = (f64::from(index) * 5.0, f64::from(index + 1) * 5.0);
        TranscribeResponse {
            chunk: Some(dalston_schema::task::Chunk { index, start, end }),
            ..transcription(
                None,
                vec![Segment {
                    start: words[0].start,
                    end: words[words.len() - 1].end,
                    text: "two words".into(),
                    words: Some(words),
                    ..Segment::default()
                }],
            )
        }
    };
    // The next part's first word begins before, with, and after the end of the last one.
    for first in [4.5, 4.8, 5.1, 5.3] {
        let parts = vec![
            part(0, &[("this", 4.0), ("week?", 4.8)]),
            part(1, &[("My", first), ("name", 6.2)]),
        ];
        let transcript = assembled(&JobParameters::default(), &prepare, parts);
        let words: Vec<&Word> = transcript
            .segments
            .iter()
            .flat_map(|segment| segment.words.iter().flatten())
            .collect();
        assert_eq!(words.len(), 4);
        for pair in words.windows(2) {
            assert!(pair[0].end <= pair[1].start, "{first}: {words:?}");
        }
        let [before, after] = &transcript.segments[..] else {
            panic!("two segments");
        };
        assert!(before.end <= after.start && before.start <= before.end);
        assert!(after.start <= after.end);
    }
}

fn alignment(name: &str, segments: Vec<Segment>) -> AlignResponse {
    AlignResponse {
        transcription: name.to_owned(),
        segments,
        word_timestamps: true,
        warnings: vec!["from the aligner".to_owned()],
        ..AlignResponse::default()
    }
}

fn two_speakers() -> DiarizeResponse {
    let turn = |speaker: &str, start, end| dalston_schema::transcript::SpeakerTurn {
        speaker: speaker.to_owned(),
        start,
        end,
        ..Default::default()
    };
    DiarizeResponse {
        turns: vec![turn("SPEAKER_00", 0.0, 4.0), turn("SPEAKER_01", 4.0, 10.0)],
        speakers: vec!["SPEAKER_00".to_owned(), "SPEAKER_01".to_owned()],
        names: [("SPEAKER_01".to_owned(), "Ada".to_owned())].into(),
        num_speakers: 2,
        ..DiarizeResponse::default()
    }
}

#[test]
fn integrated_stages_give_the_transcript_that_staged_ones_give() {
    let prepare = prepared(vec![track(None, &[(0.0, 9.0)])]);
    let parameters = JobParameters {
        speaker_detection: SpeakerDetection::Diarize,
        known_speaker_names: vec!["Grace".to_owned(), "Ada".to_owned()],
        ..JobParameters::default()
    };
    let wordless = |start, end, text| Segment {
        words: None,
        ..segment(start, end, text)
    };
    let plain = transcription(
        None,
        vec![
            wordless(0.0, 4.0, "good day"),
            wordless(4.0, 9.0, "and you"),
        ],
    );
    let aligned = || {
        alignment(
            "transcribe",
            vec![segment(0.5, 3.5, "good day"), segment(4.5, 9.0, "and you")],
        )
    };
    let mut staged = assembled_from(
        &parameters,
        &prepare,
        vec![("transcribe".to_owned(), plain.clone())],
        vec![aligned()],
        Some(two_speakers()),
    );
    let integrated = TranscribeResponse {
        alignment: Some(aligned()),
        diarization: Some(two_speakers()),
        ..plain
    };
    let integrated = assembled_from(
        &parameters,
        &prepare,
        vec![("transcribe".to_owned(), integrated)],
        Vec::new(),
        None,
    );
    // The helper names the stages of a plain job; the integrated parts add theirs.
    assert_eq!(
        integrated.metadata.pipeline_stages,
        ["prepare", "transcribe", "align", "diarize", "merge"]
    );
    staged.metadata.pipeline_stages = integrated.metadata.pipeline_stages.clone();
    assert_eq!(staged, integrated);
    assert_eq!(staged.segments[0].start, 0.5);
    assert_eq!(staged.segments[1].speaker.as_deref(), Some("SPEAKER_01"));
    assert_eq!(staged.speakers[0].label.as_deref(), Some("Grace"));
    assert_eq!(staged.turns.len(), 2);
    assert!(staged.metadata.word_timestamps);
    let warnings = &staged.metadata.pipeline_warnings;
    assert!(warnings.contains(&"from the aligner".to_owned()));
}

#[test]
fn names_matched_by_voice_go_to_their_speakers_only() {
    let parameters = JobParameters {
        known_speaker_names: vec!["Ada".to_owned()],
        known_speaker_references: vec![dalston_schema::job::SpeakerReference {
            name: "Ada".to_owned(),
            key: "jobs/x/audio/speaker0.wav".to_owned(),
        }],
        ..JobParameters::default()
    };
    let transcript = assembled_from(
        &parameters,
        &prepared(vec![track(None, &[])]),
        vec![(
            "transcribe".to_owned(),
            transcription(None, vec![segment(1.0, 2.0, "hi")]),
        )],
        Vec::new(),
        Some(two_speakers()),
    );
    let labels: Vec<_> = transcript
        .speakers
        .iter()
        .map(|speaker| speaker.label.as_deref())
        .collect();
    assert_eq!(labels, [None, Some("Ada")]);
}

#[test]
fn tracks_stand_where_they_begin_and_carry_their_names() {
    let named = |name: &str, offset| dalston_schema::job::Track {
        key: String::new(),
        offset,
        duration: 5.0,
        name: Some(name.to_owned()),
    };
    let parameters = JobParameters {
        tracks: vec![named("Ada", 0.0), named("Grace", 4.0)],
        ..JobParameters::default()
    };
    let second = PreparedAudio {
        offset: 4.0,
        ..track(Some(1), &[(0.0, 2.0)])
    };
    let transcript = assembled(
        &parameters,
        &prepared(vec![track(Some(0), &[]), second]),
        vec![
            transcription(Some(1), vec![segment(0.0, 2.0, "and you?")]),
            transcription(Some(0), vec![segment(1.0, 3.0, "how are you?")]),
        ],
    );
    assert_eq!(transcript.text, "how are you? and you?");
    assert_eq!(
        (transcript.segments[1].start, transcript.segments[1].end),
        (4.0, 6.0)
    );
    assert_eq!(transcript.segments[1].words.as_ref().unwrap()[0].start, 4.0);
    assert_eq!(transcript.speakers[1].label.as_deref(), Some("Grace"));
}

#[test]
fn warnings_come_in_the_order_of_the_pipeline_and_only_once() {
    let parameters = JobParameters {
        planning_warnings: vec!["from the planner".into(), "from prepare".into()],
        ..JobParameters::default()
    };
    let prepare = prepared(vec![track(None, &[(0.0, 9.0)])]);
    let transcript = assembled(
        &parameters,
        &prepare,
        vec![transcription(None, vec![segment(0.0, 2.0, "Hi")])],
    );
    assert_eq!(
        transcript.metadata.pipeline_warnings,
        [
            "from the planner",
            "from prepare",
            "from the engine",
            "diarize failed and was left out: no model",
            "7.0s of detected speech was not transcribed (regions: 2.0-9.0s)",
        ]
    );
}

#[test]
fn silence_gives_an_empty_transcript_and_no_language_in_the_counts() {
    let prepare = prepared(vec![track(None, &[])]);
    let transcript = assembled(
        &JobParameters::default(),
        &prepare,
        vec![transcription(None, Vec::new())],
    );
    assert_eq!(transcript.text, "");
    assert!(transcript.segments.is_empty());
    assert!(!transcript.metadata.word_timestamps);
    assert_eq!(transcript.stats().language_code, None);
}
