//! Who speaks when. The steps are those of pyannote.audio's `SpeakerDiarization` (Bredin 2023): windows of ten seconds
//! every second are segmented into tracks, every track is embedded from the frames it has alone, embeddings are
//! clustered into speakers, and the windows vote on one timeline. Results equal that pipeline's on the same weights.
//!
//! The order to read in: [`tracks`] (windows to voices; `segmentation`, `embedding` and `fbank` are what it runs),
//! [`clustering`] (voices to speakers), [`reconstruction`] (windows to one timeline), [`known`] (names).
//!
//! Audio is read window by window; what is kept is six kilobytes a second of speech.

pub mod classes;
pub mod clustering;
pub mod embedding;
pub mod fbank;
mod features;
pub mod grid;
pub mod known;
mod one_graph;
mod prefix_stream;
pub mod reconstruction;
pub mod segmentation;
pub mod tracks;

use std::sync::Arc;
use std::time::Duration;

use ndarray::{Array1, Array2};

use crate::audio_source::AudioSource;
use crate::error::{EngineError, Result};
use crate::session::RunGuard;
use crate::transcription::Control;
use crate::watch::watched;
use clustering::{SpeakerBounds, cluster};
pub use embedding::SpeakerEmbedding;
pub use known::KnownSpeaker;
use known::{MAX_KNOWN, SAME_SPEAKER, assign_names, unit, voice_of_clip};
use reconstruction::{Timeline, reconstruct};
pub use segmentation::SpeakerSegmentation;
use tracks::{HeardTracks, hear};

/// Share of the work that hearing the file is; the rest is clustering and names.
const HEARING: f64 = 0.95;

/// A request to tell speakers apart.
#[derive(Clone)]
pub struct DiarizeRequest {
    /// Audio of any length, 16 kHz mono.
    pub audio: Arc<dyn AudioSource>,
    /// Exactly so many speakers; stands above the next two.
    pub num_speakers: Option<usize>,
    /// At least so many speakers.
    pub min_speakers: Option<usize>,
    /// At most so many speakers.
    pub max_speakers: Option<usize>,
    /// Speakers to give a name.
    pub known: Vec<KnownSpeaker>,
    /// Cancellation and progress.
    pub control: Control,
    /// Longest time to take; `None` derives it from the audio.
    pub time_limit: Option<Duration>,
}

impl DiarizeRequest {
    /// A request that leaves everything open.
    pub fn new(audio: Arc<dyn AudioSource>) -> Self {
        Self {
            audio,
            num_speakers: None,
            min_speakers: None,
            max_speakers: None,
            known: Vec::new(),
            control: Control::default(),
            time_limit: None,
        }
    }
}

/// Who speaks when.
#[derive(Debug, Clone, PartialEq)]
pub struct Diarization {
    /// Turns by start, then by speaker. Turns of several speakers may overlap; those of one never do.
    pub turns: Vec<SpeakerTurn>,
    /// The speakers, in order of their first turn.
    pub speakers: Vec<DiarizedSpeaker>,
    /// Seconds in which more than one speaks.
    pub overlap_seconds: f64,
    /// What the caller should know.
    pub warnings: Vec<String>,
}

/// One speaker speaking without a pause.
#[derive(Debug, Clone, PartialEq)]
pub struct SpeakerTurn {
    /// Start in the audio, seconds.
    pub start: f64,
    /// End in the audio, seconds; after `start`.
    pub end: f64,
    /// Index into [`Diarization::speakers`].
    pub speaker: usize,
    /// Share of the windows over the turn that hear this speaker in it, 0–1: 1 when each of them, ten as a rule,
    /// found speech there and a voice that clustering gave to this speaker.
    pub confidence: f32,
    /// Other speakers who speak at some time during the turn, ascending.
    pub overlapping: Vec<usize>,
}

/// A speaker of the recording.
#[derive(Debug, Clone, PartialEq)]
pub struct DiarizedSpeaker {
    /// The name, when a clip of a known speaker matches.
    pub name: Option<String>,
    /// Length of all turns, seconds.
    pub speech_seconds: f64,
    /// The voice: mean of its embeddings, of length 1.
    pub embedding: Vec<f32>,
    /// Cosine similarity to the clip of the name.
    pub known_similarity: Option<f32>,
}

/// Tells speakers apart with a pair of models. Cheap to make and to clone.
#[derive(Clone)]
pub struct Diarizer {
    segmentation: SpeakerSegmentation,
    embedding: SpeakerEmbedding,
}

impl Diarizer {
    /// Puts two models together; any pair works.
    pub fn new(segmentation: SpeakerSegmentation, embedding: SpeakerEmbedding) -> Self {
        Self {
            segmentation,
            embedding,
        }
    }

    /// Tells who speaks when, in the caller's thread.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] for impossible bounds or too many names, [`EngineError::Audio`],
    /// [`EngineError::Graph`], [`EngineError::Cancelled`] within a second of the flag, [`EngineError::TimeLimit`].
    pub fn diarize(&self, request: DiarizeRequest) -> Result<Diarization> {
        let bounds = SpeakerBounds {
            exact: request.num_speakers,
            min: request.min_speakers,
            max: request.max_speakers,
        };
        bounds.range()?;
        if request.known.len() > MAX_KNOWN {
            return Err(EngineError::InvalidRequest(format!(
                "{} known speakers are too many: give at most {MAX_KNOWN}",
                request.known.len()
            )));
        }
        let audio = &*request.audio;
        let duration = audio.duration();
        watched(&request.control, request.time_limit, duration, |run| {
            let control = &request.control;
            let heard = hear(&self.segmentation, &self.embedding, audio, run, &|done| {
                control.report(HEARING * done);
            })?;
            let speakers = Speakers::find(&heard, bounds, run)?;
            let timeline = speakers.timeline(&heard, self.segmentation.n_tracks(), false);
            let mut diarization = speakers.diarization(&heard, &timeline, duration);
            let found = diarization.speakers.len();
            let missed = match (request.num_speakers, request.min_speakers) {
                (Some(wanted), _) if wanted != found => Some(format!("{wanted} speakers were")),
                (None, Some(least)) if least > found => {
                    Some(format!("{least} speakers or more were"))
                }
                _ => None,
            };
            if let Some(wanted) = missed {
                diarization
                    .warnings
                    .push(format!("{wanted} asked for, {found} could be told apart"));
            }
            self.name(&mut diarization, &request.known, run)?;
            control.report(duration);
            Ok(diarization)
        })
    }

    /// Gives the names of known speakers to those who match.
    fn name(
        &self,
        diarization: &mut Diarization,
        known: &[KnownSpeaker],
        run: &RunGuard,
    ) -> Result<()> {
        let n_speakers = diarization.speakers.len();
        let mut similarity = Array2::from_elem((known.len(), n_speakers), f32::NAN);
        for (at, speaker) in known.iter().enumerate() {
            let voice = voice_of_clip(&self.segmentation, &self.embedding, &*speaker.audio, run)?;
            let Some(voice) = voice else {
                let name = &speaker.name;
                diarization.warnings.push(format!(
                    "the clip of {name} holds no speech, so {name} is not looked for"
                ));
                continue;
            };
            for (other, alike) in diarization
                .speakers
                .iter()
                .zip(similarity.row_mut(at).iter_mut())
            {
                *alike = voice.dot(&ndarray::aview1(&other.embedding));
            }
        }
        let names = assign_names(similarity.view(), SAME_SPEAKER);
        for (at, (speaker, known)) in names.iter().zip(known).enumerate() {
            if let Some(speaker) = *speaker {
                let found = &mut diarization.speakers[speaker];
                found.name = Some(known.name.clone());
                found.known_similarity = Some(similarity[[at, speaker]]);
                continue;
            }
            let best = similarity.row(at).iter().copied().fold(f32::NAN, f32::max);
            if !best.is_nan() {
                diarization.warnings.push(format!(
                    "nobody was given the name {}: the most similar voice has a similarity of {best:.2}",
                    known.name
                ));
            }
        }
        Ok(())
    }
}

/// Which speaker each track is.
pub struct Speakers {
    /// For each of [`HeardTracks::tracks`].
    pub of_track: Vec<usize>,
    /// Mean voices `[speakers, size]`, as the network gives them.
    pub centroids: Array2<f32>,
}

impl Speakers {
    /// Clusters the clear tracks and gives every track to the most similar cluster.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`], [`EngineError::Cancelled`].
    pub fn find(heard: &HeardTracks, bounds: SpeakerBounds, run: &RunGuard) -> Result<Self> {
        let voices = heard.voices();
        let usable = |at: &usize| voices.row(*at).iter().all(|value| value.is_finite());
        let clear: Vec<usize> = (0..heard.tracks.len())
            .filter(|&at| heard.tracks[at].is_clear)
            .filter(usable)
            .collect();
        let rows = if clear.is_empty() {
            (0..heard.tracks.len()).filter(usable).collect()
        } else {
            clear.clone()
        };
        let clusters = if clear.is_empty() {
            vec![0; rows.len()]
        } else {
            cluster(voices, &rows, bounds, run)?
        };
        let n_clusters = clusters.iter().max().map_or(0, |last| last + 1);
        let mut sums = Array2::<f64>::zeros((n_clusters, voices.ncols()));
        let mut counts = vec![0.0; n_clusters];
        for (&row, &cluster) in rows.iter().zip(&clusters) {
            counts[cluster] += 1.0;
            for (sum, &value) in sums.row_mut(cluster).iter_mut().zip(voices.row(row)) {
                *sum += f64::from(value);
            }
        }
        for (mut sum, count) in sums.outer_iter_mut().zip(counts) {
            sum /= count;
        }
        let directions: Vec<Array1<f32>> = sums
            .outer_iter()
            .map(|sum| unit(sum.mapv(|value| value as f32)))
            .collect();
        let of_track = voices.outer_iter().map(|voice| {
            let mut best = (0, f32::NEG_INFINITY);
            for (cluster, direction) in directions.iter().enumerate() {
                let alike = voice.dot(direction);
                if alike > best.1 {
                    best = (cluster, alike);
                }
            }
            best.0
        });
        Ok(Self {
            of_track: of_track.collect(),
            centroids: sums.mapv(|value| value as f32),
        })
    }

    /// Who is which track of each window, `[windows × n_tracks]`; `None` is silent.
    pub fn by_window(&self, heard: &HeardTracks, n_tracks: usize) -> Vec<Option<usize>> {
        let mut clusters = vec![None; heard.n_windows() * n_tracks];
        for (track, &speaker) in heard.tracks.iter().zip(&self.of_track) {
            clusters[track.window as usize * n_tracks + track.track as usize] = Some(speaker);
        }
        clusters
    }

    /// The windows put together; `keep_counts` keeps the number of speakers of each frame.
    pub fn timeline(&self, heard: &HeardTracks, n_tracks: usize, keep_counts: bool) -> Timeline {
        let clusters = self.by_window(heard, n_tracks);
        reconstruct(
            heard,
            &clusters,
            n_tracks,
            self.centroids.nrows(),
            keep_counts,
        )
    }

    /// The answer: speakers in order of their first turn, times in seconds.
    fn diarization(&self, heard: &HeardTracks, timeline: &Timeline, duration: f64) -> Diarization {
        let grid = heard.grid;
        let last_frame = grid.total_frames(heard.n_windows()) - 1;
        let mut number: Vec<Option<usize>> = vec![None; self.centroids.nrows()];
        let mut speakers: Vec<DiarizedSpeaker> = Vec::new();
        let mut turns: Vec<SpeakerTurn> = Vec::new();
        for run in &timeline.runs {
            let start = grid.middle(run.start);
            let end = grid.middle(run.end.min(last_frame)).min(duration);
            if start >= end {
                continue;
            }
            let speaker = *number[run.cluster].get_or_insert_with(|| {
                speakers.push(DiarizedSpeaker {
                    name: None,
                    speech_seconds: 0.0,
                    embedding: unit(self.centroids.row(run.cluster).to_owned()).to_vec(),
                    known_similarity: None,
                });
                speakers.len() - 1
            });
            speakers[speaker].speech_seconds += end - start;
            turns.push(SpeakerTurn {
                start,
                end,
                speaker,
                confidence: run.agreement.clamp(0.0, 1.0),
                overlapping: Vec::new(),
            });
        }
        mark_overlaps(&mut turns);
        Diarization {
            turns,
            speakers,
            overlap_seconds: timeline.n_overlapped as f64 * grid.frame_seconds(),
            warnings: Vec::new(),
        }
    }
}

/// Notes in each turn who else speaks during it. Turns are in order of start.
fn mark_overlaps(turns: &mut [SpeakerTurn]) {
    let mut open: Vec<usize> = Vec::new();
    for at in 0..turns.len() {
        open.retain(|&other| turns[other].end > turns[at].start);
        for &other in &open {
            let (speaker, other_speaker) = (turns[at].speaker, turns[other].speaker);
            turns[at].overlapping.push(other_speaker);
            turns[other].overlapping.push(speaker);
        }
        open.push(at);
    }
    for turn in turns {
        turn.overlapping.sort_unstable();
        turn.overlapping.dedup();
    }
}
