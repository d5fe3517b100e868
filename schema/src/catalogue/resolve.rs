//! From the name a client asked for to one of the models that are present. Pure: the caller brings what the workers
//! announced. A name the client pinned is never replaced by another model; only `auto` and engine ids choose.

use super::{Entry, Meaning, catalogue, knows};
use crate::capability::OfferedCapability;
use crate::task::Stage;

/// What the model must be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish<'a> {
    /// The stage to serve.
    pub stage: Stage,
    /// Language of the audio (ISO 639-1); `None` when it is to be detected.
    pub language: Option<&'a str>,
    /// Translation to English is wanted.
    pub translate: bool,
}

impl<'a> Wish<'a> {
    /// Transcription in a language, or in whichever is detected.
    #[must_use]
    pub const fn transcribe(language: Option<&'a str>) -> Self {
        Self {
            stage: Stage::Transcribe,
            language,
            translate: false,
        }
    }
}

/// Why a present model does not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// It serves another stage.
    Stage,
    /// It does not know the language.
    Language,
    /// It cannot translate.
    Translation,
}

/// What a requested name comes to, given the models present.
#[derive(Clone, Debug, PartialEq)]
pub enum Resolution<'a> {
    /// The id of a present model.
    Exact(&'a OfferedCapability),
    /// Another name of a present model.
    Alias(&'a OfferedCapability),
    /// One engine or several: their present models that suit, best first. Empty when none suits.
    Engine {
        /// The engines the name stands for.
        engines: Vec<&'static str>,
        /// Suitable models, best first.
        ranked: Vec<&'a OfferedCapability>,
    },
    /// `auto`: every present model that suits, best first. Empty when none suits.
    Auto {
        /// Suitable models, best first.
        ranked: Vec<&'a OfferedCapability>,
    },
    /// The name stands for a present model that cannot do what is wished.
    Unsuitable {
        /// The model.
        offered: &'a OfferedCapability,
        /// What it cannot do.
        misfit: Misfit,
    },
    /// The catalogue knows the model, and no worker has it.
    Absent(&'static Entry),
    /// The catalogue knows the name, and nothing serves it.
    Unavailable {
        /// Why not.
        reason: &'static str,
        /// What to use.
        instead: Option<&'static Entry>,
    },
    /// Neither the catalogue nor a worker knows the name.
    Unknown,
}

/// Resolves `requested` (`auto`, a model id, an alias or an engine id) among the `present` models.
///
/// A model that a worker has under exactly this id wins over everything the catalogue says, so that an imported folder
/// may be called anything but `auto`.
#[must_use]
pub fn resolve<'a>(
    requested: &str,
    wish: &Wish<'_>,
    present: &'a [OfferedCapability],
) -> Resolution<'a> {
    let requested = requested.trim();
    let meaning = catalogue().meaning(requested);
    if meaning != Meaning::Auto
        && let Some(named) = named(requested, wish, present)
    {
        return match misfit(named, wish) {
            None => Resolution::Exact(named),
            Some(misfit) => Resolution::Unsuitable {
                offered: named,
                misfit,
            },
        };
    }
    match meaning {
        Meaning::Auto => Resolution::Auto {
            ranked: rank(present.iter(), wish),
        },
        Meaning::Engines(engines) => Resolution::Engine {
            ranked: rank(
                present
                    .iter()
                    .filter(|offered| engines.contains(&offered.capability.engine.as_str())),
                wish,
            ),
            engines,
        },
        Meaning::Model(entry) => Resolution::Absent(entry),
        Meaning::Alias(entries) => alias(&entries, wish, present),
        Meaning::Unavailable { reason, instead } => Resolution::Unavailable { reason, instead },
        Meaning::Unknown => Resolution::Unknown,
    }
}

/// Of the models an alias stands for, the first that is present and suits; else the first present; else the first.
fn alias<'a>(
    entries: &[&'static Entry],
    wish: &Wish<'_>,
    present: &'a [OfferedCapability],
) -> Resolution<'a> {
    let found = || {
        entries
            .iter()
            .filter_map(|entry| named(&entry.id, wish, present))
    };
    if let Some(offered) = found().find(|offered| misfit(offered, wish).is_none()) {
        return Resolution::Alias(offered);
    }
    if let Some(offered) = found().next() {
        return Resolution::Unsuitable {
            offered,
            misfit: misfit(offered, wish).unwrap_or(Misfit::Stage),
        };
    }
    match entries.first() {
        Some(entry) => Resolution::Absent(entry),
        None => Resolution::Unknown,
    }
}

/// The present model with this id; the one of the wished stage, should several stages use it.
fn named<'a>(
    id: &str,
    wish: &Wish<'_>,
    present: &'a [OfferedCapability],
) -> Option<&'a OfferedCapability> {
    let same = || {
        present
            .iter()
            .filter(|offered| offered.capability.model == id)
    };
    same()
        .find(|offered| offered.capability.stage == wish.stage)
        .or_else(|| same().next())
}

/// What keeps a model from the wish.
fn misfit(offered: &OfferedCapability, wish: &Wish<'_>) -> Option<Misfit> {
    if offered.capability.stage != wish.stage {
        return Some(Misfit::Stage);
    }
    if let Some(language) = wish.language
        && !knows(offered.languages.as_deref(), language)
    {
        return Some(Misfit::Language);
    }
    (wish.translate && !offered.translates).then_some(Misfit::Translation)
}

/// The models that suit, best first: models of which nothing is known come last; while the language is unknown
/// multilingual ones come first; then quality, own word times, specialists over multilingual ones, size, and the id so
/// that the order never wavers.
fn rank<'a>(
    offered: impl Iterator<Item = &'a OfferedCapability>,
    wish: &Wish<'_>,
) -> Vec<&'a OfferedCapability> {
    let mut suitable: Vec<_> = offered
        .filter(|offered| !offered.capability.model.is_empty() && misfit(offered, wish).is_none())
        .collect();
    suitable.sort_by_key(|offered| {
        let capability = &offered.capability;
        let quality =
            catalogue().quality(&capability.model, &capability.engine, offered.size_bytes);
        (
            quality == 0,
            wish.language.is_none() && offered.languages.is_some(),
            std::cmp::Reverse(quality),
            !offered.native_words,
            offered.languages.is_none(),
            std::cmp::Reverse(offered.size_bytes),
            &capability.model,
        )
    });
    suitable.dedup_by_key(|offered| &offered.capability);
    suitable
}

impl<'a> Resolution<'a> {
    /// The model to use, if there is one.
    #[must_use]
    pub fn chosen(&self) -> Option<&'a OfferedCapability> {
        match self {
            Self::Exact(offered) | Self::Alias(offered) => Some(offered),
            Self::Engine { ranked, .. } | Self::Auto { ranked } => ranked.first().copied(),
            Self::Unsuitable { .. }
            | Self::Absent(_)
            | Self::Unavailable { .. }
            | Self::Unknown => None,
        }
    }

    /// The code of a refusal: `model_not_found`, `model_stage_mismatch`, `model_not_ready` or `runtime_unavailable`.
    /// `None` when a model was chosen.
    #[must_use]
    pub fn refusal_code(&self) -> Option<&'static str> {
        if self.chosen().is_some() {
            return None;
        }
        Some(match self {
            Self::Unsuitable {
                misfit: Misfit::Stage,
                ..
            } => "model_stage_mismatch",
            Self::Unsuitable { .. } | Self::Engine { .. } | Self::Auto { .. } => {
                "runtime_unavailable"
            }
            Self::Absent(entry) if entry.component => "model_stage_mismatch",
            Self::Absent(entry) if catalogue().serves(&entry.engine) => "model_not_ready",
            Self::Absent(_) => "runtime_unavailable",
            Self::Exact(_) | Self::Alias(_) | Self::Unavailable { .. } | Self::Unknown => {
                "model_not_found"
            }
        })
    }

    /// A sentence on the choice, or on why there is none and what to do. Safe to show to a client.
    #[must_use]
    pub fn explain(&self, requested: &str, wish: &Wish<'_>) -> String {
        match (self, self.chosen()) {
            (Self::Exact(_), _) => format!("{requested} was asked for"),
            (Self::Alias(offered), _) => {
                format!("{} serves {requested}", offered.capability.model)
            }
            (Self::Engine { ranked, .. } | Self::Auto { ranked }, Some(offered)) => {
                because(offered, ranked, wish)
            }
            (Self::Engine { engines, .. }, None) => format!(
                "no model of {} is present for {}. {}",
                engines.join(" or "),
                describe(wish),
                pull_hint(suggestion(wish, engines))
            ),
            (Self::Auto { .. }, None) => format!(
                "no model is present for {}. {}",
                describe(wish),
                pull_hint(suggestion(wish, &[]))
            ),
            (Self::Unsuitable { offered, misfit }, _) => {
                let model = &offered.capability.model;
                match misfit {
                    Misfit::Stage => format!(
                        "Model {model} serves the stage {}, not {}; ask for another model, or for auto",
                        offered.capability.stage.as_str(),
                        wish.stage.as_str()
                    ),
                    Misfit::Language => format!(
                        "Model {model} knows only {}; ask for a multilingual model, or for auto, or leave the language out",
                        offered.languages.as_deref().unwrap_or_default().join(", ")
                    ),
                    Misfit::Translation => format!(
                        "Model {model} cannot translate; ask for a multilingual Whisper model, or for auto"
                    ),
                }
            }
            (Self::Absent(entry), _) if entry.component => format!(
                "Model {requested} is a part that other models of the stage {} need and runs nothing by itself; ask \
                 for one of those, or for auto",
                entry.stage
            ),
            (Self::Absent(entry), _) if catalogue().serves(&entry.engine) => format!(
                "Model {requested} is not on any worker. {}",
                pull_hint(Some(entry))
            ),
            (Self::Absent(entry), _) => format!(
                "Model {requested} needs the engine {}, which this version does not have; ask for auto, or for one of {}",
                entry.engine,
                catalogue().served_engines().join(", ")
            ),
            (Self::Unavailable { reason, instead }, _) => match instead {
                Some(entry) => format!(
                    "Model {requested} is not served: {reason}; use {}",
                    entry.id
                ),
                None => format!("Model {requested} is not served: {reason}"),
            },
            (Self::Unknown, _) => format!(
                "there is no model {requested}; `GET /v1/models` and `dalston models list` name those there are"
            ),
        }
    }
}

/// Why a choice among several went as it did.
fn because(chosen: &OfferedCapability, ranked: &[&OfferedCapability], wish: &Wish<'_>) -> String {
    let model = &chosen.capability.model;
    let best = format!("{model} is the best model present for {}", describe(wish));
    let Some(next) = ranked.get(1) else {
        return format!("{best}, the only one that suits");
    };
    let second = &next.capability.model;
    let others = match ranked.len() - 1 {
        1 => second.clone(),
        more => format!("{second} and {} more", more - 1),
    };
    if wish.language.is_none() && chosen.languages.is_none() && next.languages.is_some() {
        format!("{best}: the language is not known yet and it knows many, unlike {others}")
    } else {
        format!("{best}, before {others}")
    }
}

/// The wish in words.
fn describe(wish: &Wish<'_>) -> String {
    let what = if wish.translate {
        "translation"
    } else {
        wish.stage.as_str()
    };
    match wish.language {
        Some(language) => format!("{what} in {language}"),
        None => what.to_owned(),
    }
}

/// The smallest published model that would do and is better than a bundled one.
fn suggestion(wish: &Wish<'_>, engines: &[&str]) -> Option<&'static Entry> {
    super::entries()
        .iter()
        .filter(|entry| {
            !entry.bundled
                && entry.stage == wish.stage
                && catalogue().serves(&entry.engine)
                && (engines.is_empty() || engines.contains(&entry.engine.as_str()))
                && wish.language.is_none_or(|language| entry.knows(language))
                && (!wish.translate || entry.translates)
        })
        .find(|entry| entry.quality >= 40)
}

/// How to get an entry.
fn pull_hint(entry: Option<&'static Entry>) -> String {
    match entry {
        Some(entry) => format!("Run `dalston models pull {}`", entry.id),
        None => "`dalston models list` names the models this version can run".to_owned(),
    }
}
