//! The catalogue of published models: what can be pulled, which files make a model, what serves a registry id, and what
//! `auto` prefers. The data is `schema/catalogue.toml`, compiled in; [`resolve()`] turns the name a client asked for into
//! one of the models that are present. Nothing here touches a disk or a network.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::capability::{Capability, OfferedCapability};
use crate::task::Stage;

mod resolve;

pub use resolve::{Misfit, Resolution, Wish, resolve};

/// One published model.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Model id. For a model that is not bundled it is also the hub repository, `org/name`.
    pub id: String,
    /// Name for people.
    pub name: String,
    /// Engine that runs it, for example `whisper`.
    pub engine: String,
    /// Stage it serves.
    pub stage: Stage,
    /// Which files make the model: a key of [`Catalogue::layout`].
    pub layout: String,
    /// SPDX identifier of the weights' licence.
    pub licence: String,
    /// Parameters of the network, approximate.
    pub parameters: u64,
    /// Bytes of a pull with int8 weights, approximate.
    pub int8_bytes: u64,
    /// Bytes of a pull with float weights, approximate.
    pub float_bytes: u64,
    /// Our own ordering by published word error rates, 0–100, comparable across engines. No measurement.
    pub quality: u8,
    /// Languages (ISO 639-1, lower case); `None` when multilingual.
    #[serde(default)]
    pub languages: Option<Vec<String>>,
    /// The engine gives word times itself with this model.
    #[serde(default)]
    pub words: bool,
    /// It can translate to English.
    #[serde(default)]
    pub translates: bool,
    /// It is a part that other models of its stage need, and runs no task by itself.
    #[serde(default)]
    pub component: bool,
    /// It comes with the program and is unpacked at start.
    #[serde(default)]
    pub bundled: bool,
}

impl Entry {
    /// Approximate bytes of a pull with these weights.
    #[must_use]
    pub const fn size_bytes(&self, precision: Precision) -> u64 {
        match precision {
            Precision::Int8 => self.int8_bytes,
            Precision::Float => self.float_bytes,
        }
    }

    /// Whether the model knows the language (ISO 639-1). Multilingual models know every one.
    #[must_use]
    pub fn knows(&self, language: &str) -> bool {
        knows(self.languages.as_deref(), language)
    }

    /// The capability a worker has that holds this model on `device` (`cpu` or `cuda`), its files being `size_bytes`.
    #[must_use]
    pub fn offered(&self, device: &str, size_bytes: u64) -> OfferedCapability {
        let capability = Capability {
            stage: self.stage,
            engine: self.engine.clone(),
            model: self.id.clone(),
        };
        OfferedCapability {
            languages: self.languages.clone(),
            native_words: self.words,
            translates: self.translates,
            size_bytes,
            device: device.to_owned(),
            vocabulary_method: vocabulary_method(&self.engine).to_owned(),
            ..OfferedCapability::new(capability)
        }
    }
}

/// How an engine uses a job's `vocabulary`: `prompt_conditioning`, `phrase_boosting` or `none`.
#[must_use]
pub fn vocabulary_method(engine: &str) -> &'static str {
    match engine {
        "whisper" => "prompt_conditioning",
        "parakeet" => "phrase_boosting",
        _ => "none",
    }
}

/// Number format of a model's weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Eight-bit integers: a quarter of the size and faster on a CPU.
    #[default]
    Int8,
    /// 32-bit floats: what a GPU wants.
    Float,
}

/// Which files of a repository make a model.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Engine that runs models in this layout.
    pub engine: String,
    /// What `model_type` of `config.json` may be; empty when it says nothing.
    #[serde(default)]
    pub model_types: Vec<String>,
    /// Configuration and vocabulary that must be there.
    pub metadata: Vec<String>,
    /// Files taken along when they are there.
    pub optional: Vec<String>,
    /// Parts with int8 weights; of each part the first file that exists is taken.
    pub int8: Vec<Vec<String>>,
    /// Parts with float weights; of each part the first file that exists is taken.
    pub float: Vec<Vec<String>>,
}

impl Layout {
    /// Whether a repository has all files that make a model, in one precision. Where no configuration tells, only the
    /// name that hubs publish a graph under does, not the general one.
    fn is_complete(&self, has: impl Fn(&str) -> bool) -> bool {
        let part_is_there = |part: &Vec<String>| {
            let names = if self.metadata.is_empty() {
                &part[..part.len().min(1)]
            } else {
                &part[..]
            };
            names.iter().any(|name| has(name))
        };
        self.metadata.iter().all(|name| has(name))
            && [Precision::Int8, Precision::Float]
                .into_iter()
                .any(|precision| self.parts(precision).iter().all(part_is_there))
    }

    /// The parts with these weights.
    #[must_use]
    pub fn parts(&self, precision: Precision) -> &[Vec<String>] {
        match precision {
            Precision::Int8 => &self.int8,
            Precision::Float => &self.float,
        }
    }
}

/// Other names of models, or of engines.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Alias {
    names: Vec<String>,
    /// Models that serve the names, best first.
    #[serde(default)]
    models: Vec<String>,
    /// Engines whose best present model serves the names.
    #[serde(default)]
    engines: Vec<String>,
}

/// Names people know that nothing here serves.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Unavailable {
    names: Vec<String>,
    reason: String,
    #[serde(default)]
    instead: Option<String>,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// `auto`, whatever its case.
    Auto,
    /// An entry's own id.
    Model(&'static Entry),
    /// Another name; these entries serve it, best first.
    Alias(Vec<&'static Entry>),
    /// One engine or several; their best present model serves the name.
    Engines(Vec<&'static str>),
    /// A known name that nothing serves.
    Unavailable {
        /// Why not.
        reason: &'static str,
        /// What to use.
        instead: Option<&'static Entry>,
    },
    /// Not in the catalogue.
    Unknown,
}

/// What a hub's own labels of a repository say of the engine it is for, where its files do not decide.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubHints {
    /// By library.
    pub libraries: BTreeMap<String, String>,
    /// By tag.
    pub tags: BTreeMap<String, String>,
}

/// The whole catalogue.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    served_engines: Vec<String>,
    hub: HubHints,
    layouts: BTreeMap<String, Layout>,
    models: Vec<Entry>,
    aliases: Vec<Alias>,
    unavailable: Vec<Unavailable>,
}

static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| {
    toml::from_str(include_str!("../catalogue.toml"))
        .expect("catalogue.toml is compiled in and a test parses it")
});

/// The catalogue of this version.
#[must_use]
pub fn catalogue() -> &'static Catalogue {
    &CATALOGUE
}

/// Every entry, in the catalogue's order.
#[must_use]
pub fn entries() -> &'static [Entry] {
    &catalogue().models
}

/// The entry with this id; aliases are not followed.
#[must_use]
pub fn entry(id: &str) -> Option<&'static Entry> {
    entries().iter().find(|entry| entry.id == id)
}

impl Catalogue {
    /// Whether this version can run models of the engine.
    #[must_use]
    pub fn serves(&self, engine: &str) -> bool {
        self.served_engines.iter().any(|served| served == engine)
    }

    /// The engines this version runs.
    #[must_use]
    pub fn served_engines(&self) -> &[String] {
        &self.served_engines
    }

    /// What a hub's labels say.
    #[must_use]
    pub fn hub(&self) -> &HubHints {
        &self.hub
    }

    /// The layout that a repository with these files is in, told by `has` and by the `model_type` of its configuration
    /// where that is known. Of several the one that asks for most files.
    #[must_use]
    pub fn layout_of(
        &self,
        has: impl Fn(&str) -> bool,
        model_type: Option<&str>,
    ) -> Option<(&str, &Layout)> {
        self.layouts()
            .filter(|(_, layout)| {
                let typed = layout.model_types.is_empty()
                    || model_type
                        .is_none_or(|found| layout.model_types.iter().any(|known| known == found));
                typed && layout.is_complete(&has)
            })
            .max_by_key(|(_, layout)| layout.metadata.len() + layout.float.len())
    }

    /// The layout with this name.
    #[must_use]
    pub fn layout(&self, name: &str) -> Option<&Layout> {
        self.layouts.get(name)
    }

    /// Every layout with its name.
    pub fn layouts(&self) -> impl Iterator<Item = (&str, &Layout)> {
        self.layouts
            .iter()
            .map(|(name, layout)| (name.as_str(), layout))
    }

    /// What a name stands for. Case matters in model ids, as on the hub, and not in `auto`.
    #[must_use]
    pub fn meaning(&'static self, name: &str) -> Meaning {
        if name.eq_ignore_ascii_case("auto") {
            return Meaning::Auto;
        }
        if let Some(entry) = entry(name) {
            return Meaning::Model(entry);
        }
        let has = |names: &[String]| names.iter().any(|known| known == name);
        if let Some(alias) = self.aliases.iter().find(|alias| has(&alias.names)) {
            return if alias.models.is_empty() {
                Meaning::Engines(alias.engines.iter().map(String::as_str).collect())
            } else {
                Meaning::Alias(alias.models.iter().filter_map(|id| entry(id)).collect())
            };
        }
        if let Some(entry) = self.models.iter().find(|entry| entry.engine == name) {
            return Meaning::Engines(vec![&entry.engine]);
        }
        if let Some(known) = self.unavailable.iter().find(|known| has(&known.names)) {
            return Meaning::Unavailable {
                reason: &known.reason,
                instead: known.instead.as_deref().and_then(entry),
            };
        }
        Meaning::Unknown
    }

    /// Quality of a model of this id, engine and size: the entry's own, or for a model the catalogue does not know that
    /// of the largest entry of its engine which is not larger.
    #[must_use]
    pub fn quality(&self, id: &str, engine: &str, size_bytes: u64) -> u8 {
        if let Some(entry) = entry(id) {
            return entry.quality;
        }
        self.models
            .iter()
            .filter(|entry| entry.engine == engine && entry.int8_bytes <= size_bytes)
            .map(|entry| entry.quality)
            .max()
            .unwrap_or(0)
    }
}

/// Whether a model with this language list knows a language. `None` knows every one; regions are ignored (`en-GB`).
fn knows(languages: Option<&[String]>, language: &str) -> bool {
    let base = language.split(['-', '_']).next().unwrap_or(language);
    languages.is_none_or(|known| known.iter().any(|code| code.eq_ignore_ascii_case(base)))
}

#[cfg(test)]
mod tests;
