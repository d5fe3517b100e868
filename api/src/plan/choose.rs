//! Which engine and model runs a stage: from the name that was asked for to one of the models that workers offer, and why.

use std::borrow::Cow;

use dalston_schema::Stage;
use dalston_schema::capability::OfferedCapability;
use dalston_schema::catalogue::{self, Entry, Resolution, Wish};

use super::{PlanError, PlanRefusal, WhenMissing};

/// What a stage runs with.
#[derive(Clone, Debug)]
pub struct Choice<'a> {
    /// Engine and model.
    pub offer: Cow<'a, OfferedCapability>,
    /// Why, in words.
    pub because: String,
}

/// Chooses for one stage. `requested` is `auto`, a model id, an alias or an engine id.
///
/// # Errors
/// [`PlanError`] when no model offered does and none is to be waited for.
pub fn choose<'a>(
    requested: &str,
    wish: &Wish<'_>,
    offered: &'a [OfferedCapability],
    when_missing: WhenMissing,
) -> Result<Choice<'a>, PlanError> {
    let resolution = catalogue::resolve(requested, wish, offered);
    let explanation = resolution.explain(requested, wish);
    if let Some(offer) = resolution.chosen() {
        return Ok(Choice {
            offer: Cow::Borrowed(offer),
            because: explanation,
        });
    }
    if when_missing == WhenMissing::Wait
        && let Some(entry) = awaited(&resolution, wish)
    {
        return Ok(Choice {
            offer: Cow::Owned(entry.offered("cpu", entry.int8_bytes)),
            because: format!(
                "{requested} needs {}, which no worker has yet; the job waits for one",
                entry.id
            ),
        });
    }
    Err(PlanError {
        reason: refusal(&resolution, wish.stage, offered),
        stage: wish.stage,
        requested: requested.to_owned(),
        message: explanation,
    })
}

/// The model to wait for: the one that was named, or for `auto` and engines the best that comes with the program.
fn awaited(resolution: &Resolution<'_>, wish: &Wish<'_>) -> Option<&'static Entry> {
    let suits = |entry: &&'static Entry| {
        entry.stage == wish.stage
            && catalogue::catalogue().serves(&entry.engine)
            && wish.language.is_none_or(|language| entry.knows(language))
            && (!wish.translate || entry.translates)
    };
    match resolution {
        Resolution::Absent(entry) => Some(*entry).filter(suits),
        Resolution::Auto { .. } => bundled().filter(suits).max_by_key(|entry| entry.quality),
        Resolution::Engine { engines, .. } => bundled()
            .filter(suits)
            .filter(|entry| engines.contains(&entry.engine.as_str()))
            .max_by_key(|entry| entry.quality),
        Resolution::Exact(_)
        | Resolution::Alias(_)
        | Resolution::Unsuitable { .. }
        | Resolution::Unavailable { .. }
        | Resolution::Unknown => None,
    }
}

fn bundled() -> impl Iterator<Item = &'static Entry> {
    catalogue::entries().iter().filter(|entry| entry.bundled)
}

fn refusal(
    resolution: &Resolution<'_>,
    stage: Stage,
    offered: &[OfferedCapability],
) -> PlanRefusal {
    let any = offered.iter().any(|offer| offer.capability.stage == stage);
    match resolution {
        Resolution::Unknown => PlanRefusal::UnknownModel,
        _ if !any => PlanRefusal::NothingOffered,
        Resolution::Absent(_) | Resolution::Unavailable { .. } => PlanRefusal::AbsentModel,
        Resolution::Exact(_)
        | Resolution::Alias(_)
        | Resolution::Engine { .. }
        | Resolution::Auto { .. }
        | Resolution::Unsuitable { .. } => PlanRefusal::Unsuitable,
    }
}
