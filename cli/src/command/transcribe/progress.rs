//! Progress bars on a terminal: bytes while uploading, then the share of the audio that is done.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::client::events::Progress;
use crate::client::upload::Source;
use crate::print;

/// Steps of a bar that shows a share.
const STEPS: u64 = 1000;

/// The bars of all inputs; invisible when asked to be quiet or when standard error is no terminal.
#[derive(Debug)]
pub struct Bars {
    all: MultiProgress,
}

impl Bars {
    /// Draws to standard error unless `quiet`.
    pub fn new(quiet: bool) -> Bars {
        let target = if quiet {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        Bars {
            all: MultiProgress::with_draw_target(target),
        }
    }

    /// A bar for one input.
    pub fn add(&self, source: &Source) -> Bar {
        let bar = self.all.add(ProgressBar::no_length());
        bar.set_prefix(source.name());
        let length = source.length();
        if let Some(length) = length {
            bar.set_length(length);
            bar.set_style(style("{prefix}  {bar:30} {bytes}/{total_bytes} uploading"));
        } else {
            bar.set_style(style("{prefix}  {spinner} fetching"));
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        Bar { bar }
    }
}

/// The bar of one input.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
}

impl Bar {
    /// What the upload reports to.
    pub fn upload(&self) -> impl Fn(i64) + Clone + Send + Sync + 'static {
        let bar = self.bar.clone();
        move |bytes| bar.set_position(bar.position().saturating_add_signed(bytes))
    }

    /// The upload is done and the job waits for a worker.
    pub fn waiting(&self) {
        self.bar
            .set_style(style("{prefix}  {spinner} {elapsed} {msg}"));
        self.bar.set_message("waiting");
        self.bar.enable_steady_tick(Duration::from_millis(120));
    }

    /// The job got further.
    pub fn advance(&self, progress: &Progress) {
        self.bar.set_message(match progress.left {
            Some(left) => {
                let left = print::duration(left.as_secs_f64());
                format!("{}, {left} left", progress.stage)
            }
            None => progress.stage.clone(),
        });
        if let Some(share) = progress.share {
            self.bar
                .set_style(style("{prefix}  {bar:30} {percent}% {elapsed} {msg}"));
            self.bar.set_length(STEPS);
            self.bar.set_position((share * STEPS as f64) as u64);
        }
    }

    /// Takes the bar off the screen.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    // A template that does not parse would only cost the looks.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_failed_upload_takes_its_bytes_back() {
        let bar = Bars::new(true).add(&Source::Url("http://host/a.wav".to_owned()));
        let report = bar.upload();
        report(100);
        report(50);
        report(-150);
        assert_eq!(bar.bar.position(), 0);
    }

    #[test]
    fn a_share_moves_the_bar_and_the_time_left_is_told() {
        let bar = Bars::new(true).add(&Source::Url("http://host/a.wav".to_owned()));
        bar.advance(&Progress {
            stage: "transcribe".to_owned(),
            share: Some(0.25),
            left: Some(Duration::from_secs(75)),
        });
        assert_eq!((bar.bar.position(), bar.bar.length()), (250, Some(1000)));
        assert_eq!(bar.bar.message(), "transcribe, 1:15 left");
        bar.advance(&Progress {
            stage: "align".to_owned(),
            share: None,
            left: None,
        });
        // The end of a task says nothing about the whole.
        assert_eq!(
            (bar.bar.position(), bar.bar.message().as_str()),
            (250, "align")
        );
    }
}
