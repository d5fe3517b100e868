//! The text of a job as it becomes certain: what its log says while transcriptions run, and each answer once it is there.
//!
//! A file in parts is read in the order of the parts. What comes out only grows, so that pieces of it add up to the
//! transcript's text; where a second attempt said something else than the first, nothing more comes before the end.

use std::collections::HashMap;

use dalston_schema::db::events::{self, JobEvent, SaidSegments};
use dalston_schema::db::tasks;
use dalston_schema::task::TranscribeResponse;
use dalston_schema::transcript::word_space;
use dalston_schema::{JobId, TaskId};
use serde_json::Value;

use crate::error::ApiError;
use crate::state::App;
use crate::wait::Watching;

/// Events read at a time.
const PAGE: i64 = 500;

/// A reader of one job's text.
pub struct LiveText {
    app: App,
    job: JobId,
    last: i64,
    watching: Watching,
    parts: HashMap<u32, Part>,
    text: Growing,
}

/// What is known of one transcription.
#[derive(Clone, Debug, Default, PartialEq)]
struct Part {
    /// Segments told so far.
    n_segments: usize,
    /// Their texts, as they are.
    said: String,
    /// The answer, once it is there.
    answer: Option<(String, String)>,
}

impl LiveText {
    /// Begins before anything was said.
    #[must_use]
    pub fn new(app: &App, job: JobId) -> Self {
        Self {
            app: app.clone(),
            job,
            last: 0,
            watching: app.watch.job(job),
            parts: HashMap::new(),
            text: Growing::default(),
        }
    }

    /// Waits until there is more text, and answers it.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn more(&mut self) -> Result<String, ApiError> {
        loop {
            let page = events::after(&self.app.pool, self.job, self.last, PAGE).await?;
            for event in &page {
                self.take(event).await?;
                self.last = event.id;
            }
            let more = self.text.grow(&self.parts);
            if !more.is_empty() {
                return Ok(more);
            }
            if page.is_empty() {
                self.watching.changed().await;
            }
        }
    }

    /// What is still missing of the finished text.
    #[must_use]
    pub fn rest(self, text: &str) -> String {
        let rest = text.strip_prefix(&self.text.told);
        if rest.is_none() {
            tracing::warn!(job.id = %self.job, "the text of job {} is not what was told of it before", self.job);
        }
        rest.unwrap_or_default().to_owned()
    }

    async fn take(&mut self, event: &JobEvent) -> Result<(), ApiError> {
        if event.event_type == events::SEGMENTS {
            if let Ok(said) = serde_json::from_value::<SaidSegments>(event.body.clone()) {
                let part = self.parts.entry(said.chunk.unwrap_or(0)).or_default();
                part.add(said);
            }
            return Ok(());
        }
        if event.event_type != "task.completed" || event.body["stage"] != "transcribe" {
            return Ok(());
        }
        let id = serde_json::from_value::<TaskId>(event.body["task_id"].clone());
        let Ok(id) = id else { return Ok(()) };
        let payload = tasks::payload(&self.app.pool, self.job, id).await?;
        let response = payload
            .and_then(|payload| payload.response)
            .unwrap_or(Value::Null);
        if let Ok(response) = serde_json::from_value::<TranscribeResponse>(response) {
            let index = response.chunk.map_or(0, |chunk| chunk.index);
            let part = self.parts.entry(index).or_default();
            part.answer = Some((response.text.trim().to_owned(), response.language));
        }
        Ok(())
    }
}

impl Part {
    /// Takes segments that follow what is known; a later attempt repeats what an earlier one said.
    fn add(&mut self, said: SaidSegments) {
        if said.first > self.n_segments {
            return;
        }
        let known = self.n_segments - said.first;
        for segment in said.segments.iter().skip(known) {
            self.said.push_str(&segment.text);
            self.n_segments += 1;
        }
    }
}

/// Text that only grows.
#[derive(Clone, Debug, Default, PartialEq)]
struct Growing {
    /// What was given out.
    told: String,
    /// The parts that are told to their end, with the space that follows them.
    finished: String,
    n_finished: u32,
    /// A part's answer is not what was told of it.
    broken: bool,
}

impl Growing {
    /// What the parts add to what was told, without white space at its end: more may follow, or not.
    fn grow(&mut self, parts: &HashMap<u32, Part>) -> String {
        let mut text = self.finished.clone();
        while let Some(part) = parts.get(&self.n_finished) {
            let Some((answer, language)) = &part.answer else {
                text.push_str(part.said.trim());
                break;
            };
            text.push_str(answer);
            if !answer.is_empty() {
                text.push_str(word_space(language));
            }
            self.finished.clone_from(&text);
            self.n_finished += 1;
        }
        let text = text.trim_end();
        match text.strip_prefix(self.told.as_str()) {
            Some(more) if !self.broken => {
                let more = more.to_owned();
                self.told.push_str(&more);
                more
            }
            // What was said last may be shorter than before: the answer of a later attempt.
            _ => {
                self.broken |= !self.told.starts_with(text);
                String::new()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use dalston_schema::db::events::SaidSegment;

    fn said(first: usize, texts: &[&str]) -> SaidSegments {
        SaidSegments {
            task_id: TaskId::generate(),
            name: "transcribe".to_owned(),
            attempt: 1,
            channel: None,
            chunk: None,
            first,
            segments: texts
                .iter()
                .map(|text| SaidSegment {
                    text: (*text).to_owned(),
                    ..SaidSegment::default()
                })
                .collect(),
        }
    }

    fn answer(text: &str) -> Option<(String, String)> {
        Some((text.to_owned(), "en".to_owned()))
    }

    #[test]
    fn parts_are_told_in_their_order_and_add_up_to_the_text() {
        let (mut parts, mut text) = (HashMap::<u32, Part>::new(), Growing::default());
        parts.entry(1).or_default().add(said(0, &[" Second."]));
        assert_eq!(text.grow(&parts), "");
        parts
            .entry(0)
            .or_default()
            .add(said(0, &[" One.", " Two. "]));
        assert_eq!(text.grow(&parts), "One. Two.");
        parts.entry(0).or_default().answer = answer("One. Two. Three.");
        assert_eq!(text.grow(&parts), " Three. Second.");
        parts.entry(1).or_default().answer = answer("Second.");
        assert_eq!(text.grow(&parts), "");
        parts.entry(2).or_default().answer = answer("");
        parts.entry(3).or_default().answer = answer("End.");
        assert_eq!(text.grow(&parts), " End.");
        assert_eq!(text.told, "One. Two. Three. Second. End.");
    }

    #[test]
    fn a_second_attempt_repeats_what_the_first_said() {
        let mut part = Part::default();
        part.add(said(0, &[" a", " b"]));
        part.add(said(0, &[" a"]));
        part.add(said(1, &[" b", " c"]));
        // Something in between was not logged.
        part.add(said(5, &[" z"]));
        assert_eq!((part.said.as_str(), part.n_segments), (" a b c", 3));
    }

    #[test]
    fn an_answer_that_says_something_else_ends_the_telling() {
        let (mut parts, mut text) = (HashMap::<u32, Part>::new(), Growing::default());
        parts.entry(0).or_default().add(said(0, &[" Good morning"]));
        assert_eq!(text.grow(&parts), "Good morning");
        parts.entry(0).or_default().answer = answer("Good evening all");
        assert_eq!(text.grow(&parts), "");
        parts.entry(1).or_default().answer = answer("More.");
        assert_eq!(text.grow(&parts), "");
        assert_eq!(text.told, "Good morning");
    }
}
