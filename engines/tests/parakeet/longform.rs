//! Long audio: the same words at the same times as utterance by utterance, however long the file is.

use std::sync::Arc;

use dalston_engines::{
    AudioSource, LongForm, Precision, SpeechRegion, TranscribeOptions, TranscribeRequest,
    TranscriberHandle,
};

use crate::fixture::{audio, golden, load, models, tdt, transcribe_all, with_words, words};
use crate::word_errors::word_error_rate;

const RATE: f64 = 16_000.0;

/// Utterances one after the other with silence between them, made as they are read.
pub struct Concatenated {
    /// First sample of each, and which of `files` it is.
    pub places: Vec<(u64, usize)>,
    pub files: Vec<Vec<f32>>,
    pub n_samples: u64,
}

impl Concatenated {
    /// All bundled utterances over and over, until they last for `minutes`.
    pub fn new(minutes: f64) -> Self {
        let names: Vec<serde_json::Value> = golden("parakeet-tdt-nano", "utterances.fp32.jsonl");
        let files: Vec<Vec<f32>> = names
            .iter()
            .map(|case| audio(case["path"].as_str().unwrap()))
            .collect();
        let mut places = Vec::new();
        let mut at = 8_000_u64;
        for turn in 0_u64.. {
            if at as f64 > minutes * 60.0 * RATE {
                break;
            }
            // A stride that meets every file, so that neighbours differ from turn to turn.
            let file = (turn * 67 % files.len() as u64) as usize;
            places.push((at, file));
            // Gaps of 0.7 to 1.9 s that no frame of 80 ms divides.
            at += files[file].len() as u64 + 11_201 + turn * 7_919 % 19_000;
        }
        Self {
            places,
            files,
            n_samples: at,
        }
    }

    pub fn regions(&self) -> Vec<SpeechRegion> {
        let region = |&(start, file): &(u64, usize)| SpeechRegion {
            start: start as f64 / RATE,
            end: (start + self.files[file].len() as u64) as f64 / RATE,
        };
        self.places.iter().map(region).collect()
    }
}

impl AudioSource for Concatenated {
    fn n_samples(&self) -> u64 {
        self.n_samples
    }

    fn read(&self, start: u64, out: &mut [f32]) -> dalston_engines::Result<()> {
        out.fill(0.0);
        let end = start + out.len() as u64;
        let first = self
            .places
            .partition_point(|&(place, file)| place + self.files[file].len() as u64 <= start);
        for &(place, file) in self.places[first..]
            .iter()
            .take_while(|(place, _)| *place < end)
        {
            let samples = &self.files[file];
            let from = start.max(place);
            let until = end.min(place + samples.len() as u64);
            let source = &samples[(from - place) as usize..(until - place) as usize];
            out[(from - start) as usize..(until - start) as usize].copy_from_slice(source);
        }
        Ok(())
    }
}

fn transcribe(
    model: &TranscriberHandle,
    audio: &Arc<Concatenated>,
    long_form: LongForm,
) -> Vec<(String, f64, f64)> {
    let options = TranscribeOptions {
        long_form,
        ..with_words()
    };
    let source = Arc::clone(audio) as Arc<dyn AudioSource>;
    words(
        &model
            .transcribe(TranscribeRequest::new(source, options))
            .unwrap(),
    )
}

/// What each utterance says by itself, put at its place.
fn one_by_one(model: &TranscriberHandle, audio: &Concatenated) -> Vec<(String, f64, f64)> {
    let alone = transcribe_all(model, audio.files.clone(), &with_words());
    let placed = audio.places.iter().flat_map(|&(start, file)| {
        let start = start as f64 / RATE;
        words(&alone[file])
            .into_iter()
            .map(move |(word, from, to)| (word, start + from, start + to))
    });
    placed.collect()
}

#[test]
fn half_an_hour_over_speech_regions_is_its_utterances_word_for_word_and_time_for_time() {
    let audio = Arc::new(Concatenated::new(25.0));
    let wanted = one_by_one(tdt(), &audio);
    let heard = transcribe(tdt(), &audio, LongForm::Batched(audio.regions()));
    assert!(wanted.len() > 2_000, "{}", wanted.len());
    assert_eq!(heard.len(), wanted.len());
    for (heard, wanted) in heard.iter().zip(&wanted) {
        assert_eq!(heard.0, wanted.0);
        assert!(
            (heard.1 - wanted.1).abs() < 1e-3 && (heard.2 - wanted.2).abs() < 1e-3,
            "{heard:?} {wanted:?}"
        );
    }
}

#[test]
fn audio_without_regions_is_cut_between_words_and_its_times_do_not_drift() {
    let audio = Arc::new(Concatenated::new(10.0));
    let wanted = one_by_one(tdt(), &audio);
    let joined = |words: &[(String, f64, f64)]| {
        let words: Vec<&str> = words.iter().map(|(word, ..)| word.as_str()).collect();
        vec![words.join(" ")]
    };
    // Windows of two lengths have no seam in common: what they agree on owes nothing to seams.
    for longest_s in [12.0, 17.0] {
        let model = load(
            &models().join("parakeet-tdt-nano"),
            Precision::Float,
            longest_s,
        );
        let heard = transcribe(&model, &audio, LongForm::Sequential);
        let rate = word_error_rate(&joined(&wanted), &joined(&heard));
        assert!(
            rate < 0.15,
            "{rate:.3} of the words differ in windows of {longest_s} s"
        );
        let said_once = heard.len() as f64 / wanted.len() as f64;
        assert!(
            (said_once - 1.0).abs() < 0.04,
            "{said_once:.3} times as many words"
        );
        // Every word that has a namesake nearby lies where it was said, at the end as at the beginning.
        let late = |part: &[(String, f64, f64)]| {
            let mut offsets: Vec<f64> = part
                .iter()
                .filter_map(|(word, start, _)| {
                    let same = wanted
                        .iter()
                        .filter(|wanted| wanted.0 == *word)
                        .map(|wanted| start - wanted.1);
                    same.min_by(|a, b| a.abs().total_cmp(&b.abs()))
                        .filter(|offset| offset.abs() < 1.0)
                })
                .collect();
            offsets.sort_by(f64::total_cmp);
            offsets[offsets.len() / 2]
        };
        let (first, last) = (late(&heard[..200]), late(&heard[heard.len() - 200..]));
        assert!(
            first.abs() < 0.09 && last.abs() < 0.09,
            "{first} s at the beginning, {last} s at the end"
        );
    }
}
