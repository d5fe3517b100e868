//! What `prepare` says of the audio: the facts that dependants read, and what a user should know.

use dalston_audio::{AudioFacts, Levels};
use dalston_schema::task::{PrepareResponse, PreparedAudio, SourceAudio};

use crate::coverage::total;

/// Share of samples at full scale from which a track counts as clipped.
const CLIPPED_SHARE: f64 = 0.001;
/// Level below which a track counts as almost silent, dBFS.
const ALMOST_SILENT_DBFS: f64 = -55.0;
/// Seconds that may be damaged without a word about it.
const DAMAGED_SECONDS: f64 = 0.1;

/// The answer. Of `several` files the facts are those of the first, and the length reaches to the end of the last.
pub fn response(
    facts: &AudioFacts,
    files: Vec<PreparedAudio>,
    several: bool,
    warnings: Vec<String>,
) -> PrepareResponse {
    let duration: f64 = files.iter().map(|file| file.duration).sum();
    let speech: f64 = files.iter().map(|file| total(&file.speech_regions)).sum();
    let ends = files.iter().map(|file| file.offset + file.duration);
    let last_end = ends.fold(0.0, f64::max);
    PrepareResponse {
        source: SourceAudio {
            format: facts.format.clone(),
            codec: facts.codec.clone(),
            duration: if several { last_end } else { facts.duration },
            sample_rate: facts.sample_rate,
            channels: facts.channels,
            bit_depth: facts.bit_depth,
        },
        channel_files: files,
        speech_ratio: if duration > 0.0 {
            (speech / duration).clamp(0.0, 1.0)
        } else {
            0.0
        },
        warnings,
    }
}

/// Says how much of a file was damaged, when it was.
pub fn damage_warning(facts: &AudioFacts) -> Vec<String> {
    if facts.damaged <= DAMAGED_SECONDS {
        return Vec::new();
    }
    vec![format!(
        "{:.1}s of the file could not be decoded and count as silence",
        facts.damaged
    )]
}

/// What a user should know about how one track sounds.
pub fn track_warnings(levels: &Levels, speechless: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    if levels.clipped >= CLIPPED_SHARE {
        warnings.push(format!(
            "the audio is clipped ({:.1}% of samples at full scale); words may be misheard",
            levels.clipped * 100.0
        ));
    }
    if levels.rms_dbfs < ALMOST_SILENT_DBFS {
        warnings.push(format!(
            "the audio is almost silent ({:.0} dBFS)",
            levels.rms_dbfs
        ));
    }
    if speechless {
        warnings.push("no speech was found in the audio".to_owned());
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_say_what_is_wrong_with_the_sound_and_nothing_else() {
        let levels = |rms_dbfs, clipped| Levels {
            rms_dbfs,
            peak_dbfs: 0.0,
            clipped,
            silent: 0.0,
        };
        let check = |levels: Levels, speechless, expected: &[&str]| {
            let found = track_warnings(&levels, speechless);
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for (warning, part) in found.iter().zip(expected) {
                assert!(warning.contains(part), "{warning}");
            }
        };
        check(levels(-20.0, 0.0), false, &[]);
        check(levels(-3.0, 0.05), false, &["clipped (5.0%"]);
        check(
            levels(-80.0, 0.0),
            true,
            &["almost silent (-80 dBFS)", "no speech"],
        );
    }
}
