//! What a native request says about speakers: whether to tell them apart, how many there are, and who is known.

use dalston_schema::job::{JobParameters, SpeakerDetection};

use super::one_of;
use crate::error::ApiError;
use crate::form::Fields;
use crate::speakers::{self, CLIPS, NAMES};

/// Speakers a recording may have.
const SPEAKERS: std::ops::RangeInclusive<i64> = 1..=32;

/// Reads the fields about speakers into `parameters`.
///
/// # Errors
/// 422 for values of the wrong type or outside their range, 400 for values that make no sense together.
pub fn read(fields: &Fields, parameters: &mut JobParameters) -> Result<(), ApiError> {
    parameters.speaker_detection = one_of(
        fields,
        "speaker_detection",
        &[
            ("none", SpeakerDetection::None),
            ("diarize", SpeakerDetection::Diarize),
            ("per_channel", SpeakerDetection::PerChannel),
        ],
        SpeakerDetection::None,
    )?;
    let count = |name| -> Result<Option<u32>, ApiError> {
        let count = fields.integer(name, SPEAKERS)?;
        Ok(count.and_then(|n| u32::try_from(n).ok()))
    };
    let (exact, min, max) = (
        count("num_speakers")?,
        count("min_speakers")?,
        count("max_speakers")?,
    );
    let ordered =
        |smaller: (&str, Option<u32>), larger: (&str, Option<u32>)| match (smaller, larger) {
            ((low, Some(least)), (high, Some(most))) if least > most => Err(ApiError::bad_request(
                format!("{low} ({least}) must not be greater than {high} ({most})"),
            )),
            _ => Ok(()),
        };
    ordered(("min_speakers", min), ("max_speakers", max))?;
    ordered(("min_speakers", min), ("num_speakers", exact))?;
    ordered(("num_speakers", exact), ("max_speakers", max))?;
    for (name, count) in [
        ("num_speakers", exact),
        ("min_speakers", min),
        ("max_speakers", max),
    ] {
        if count.is_some() && parameters.speaker_detection != SpeakerDetection::Diarize {
            return Err(ApiError::bad_request(format!(
                "{name} needs speaker_detection=diarize"
            )));
        }
    }
    parameters.num_speakers = exact;
    parameters.min_speakers = min;
    parameters.max_speakers = max;
    parameters.known_speaker_names =
        speakers::names(fields).map_err(speakers::SpeakerError::into_standard)?;
    known_speakers_fit(fields, parameters)
}

/// Recordings that would be dropped without a word are refused. Names alone are a field of OpenAI's dialect too, and
/// like its other fields do not keep a native request from being served: the job says that they were not used.
fn known_speakers_fit(fields: &Fields, parameters: &mut JobParameters) -> Result<(), ApiError> {
    let detection = parameters.speaker_detection;
    if fields.has(CLIPS) && detection != SpeakerDetection::Diarize {
        return Err(ApiError::bad_request(format!(
            "{CLIPS} needs speaker_detection=diarize"
        )));
    }
    if !parameters.known_speaker_names.is_empty() {
        if fields.has("tracks") {
            return Err(ApiError::bad_request(format!(
                "{NAMES} cannot be combined with tracks; name the speaker of each track in tracks"
            )));
        }
        if detection == SpeakerDetection::None {
            parameters.known_speaker_names.clear();
            parameters.planning_warnings.push(format!(
                "{NAMES} was not used: it needs speaker_detection=diarize or per_channel."
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    fn read_form(pairs: &[(&str, &str)]) -> Result<JobParameters, ApiError> {
        let mut fields = Fields::default();
        for (name, text) in pairs {
            fields.push((*name).to_owned(), (*text).to_owned());
        }
        let mut parameters = JobParameters::default();
        read(&fields, &mut parameters)?;
        Ok(parameters)
    }

    #[test]
    fn counts_and_names_that_contradict_each_other_are_refused() {
        const NAMED: (&str, &str) = ("known_speaker_names", "[\"Ann\"]");
        for (pairs, message) in [
            (
                &[("min_speakers", "4"), ("max_speakers", "2")][..],
                "min_speakers (4) must not be greater than max_speakers (2)",
            ),
            (
                &[("num_speakers", "5"), ("max_speakers", "2")],
                "num_speakers (5) must not be greater than max_speakers (2)",
            ),
            (
                &[("min_speakers", "3"), ("num_speakers", "2")],
                "min_speakers (3) must not be greater than num_speakers (2)",
            ),
            (
                &[("num_speakers", "2")],
                "num_speakers needs speaker_detection=diarize",
            ),
            (
                &[("max_speakers", "3"), ("speaker_detection", "per_channel")],
                "max_speakers needs speaker_detection=diarize",
            ),
            (
                &[NAMED, ("tracks", "[{}, {}]")],
                "known_speaker_names cannot be combined with tracks; name the speaker of each track in tracks",
            ),
            (
                &[
                    NAMED,
                    ("speaker_detection", "per_channel"),
                    ("known_speaker_references", "data:audio/wav;base64,UklGRg=="),
                ],
                "known_speaker_references needs speaker_detection=diarize",
            ),
        ] {
            let error = read_form(pairs).unwrap_err();
            assert_eq!(
                (error.status_code().as_u16(), error.message().as_str()),
                (400, message)
            );
        }
    }

    #[test]
    fn names_without_speaker_detection_are_a_warning() {
        let parameters = read_form(&[("known_speaker_names", "[\"Ann\"]")]).unwrap();
        assert_eq!(parameters.known_speaker_names, Vec::<String>::new());
        assert_eq!(
            parameters.planning_warnings,
            [
                "known_speaker_names was not used: it needs speaker_detection=diarize or per_channel."
            ]
        );
    }

    #[test]
    fn everything_about_speakers_reaches_the_job() {
        let parameters = read_form(&[
            ("speaker_detection", "diarize"),
            ("min_speakers", "2"),
            ("max_speakers", "4"),
            ("known_speaker_names", "[\"Ann\", \"Bob\"]"),
        ])
        .unwrap();
        assert_eq!(parameters.speaker_detection, SpeakerDetection::Diarize);
        assert_eq!(
            (
                parameters.num_speakers,
                parameters.min_speakers,
                parameters.max_speakers
            ),
            (None, Some(2), Some(4))
        );
        assert_eq!(parameters.known_speaker_names, ["Ann", "Bob"]);
    }
}
