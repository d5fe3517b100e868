#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::HashSet;

use super::*;

fn present(ids: &[&str]) -> Vec<OfferedCapability> {
    ids.iter()
        .map(|id| {
            entry(id)
                .unwrap()
                .offered("cpu", entry(id).unwrap().int8_bytes)
        })
        .collect()
}

fn chosen(requested: &str, wish: &Wish<'_>, ids: &[&str]) -> Option<String> {
    let present = present(ids);
    resolve(requested, wish, &present)
        .chosen()
        .map(|offered| offered.capability.model.clone())
}

const TINY: &str = "onnx-community/whisper-tiny_timestamped";
const BASE: &str = "onnx-community/whisper-base_timestamped";
const BASE_SEGMENTS: &str = "onnx-community/whisper-base";
const BASE_EN: &str = "onnx-community/whisper-base.en_timestamped";
const TURBO: &str = "onnx-community/whisper-large-v3-turbo_timestamped";
const PARAKEET: &str = "istupakov/parakeet-tdt-0.6b-v2-onnx";
const PARAKEET_V3: &str = "istupakov/parakeet-tdt-0.6b-v3-onnx";
const PARAKEET_NANO: &str = "parakeet-tdt-nano";
const NANO: &str = "whisper-nano";
const VAD: &str = "silero-vad";

#[test]
fn every_id_and_every_name_stands_for_one_thing() {
    let catalogue = catalogue();
    let mut seen = HashSet::new();
    let ids = catalogue.models.iter().map(|entry| &entry.id);
    let aliases = catalogue.aliases.iter().flat_map(|alias| &alias.names);
    let unavailable = catalogue.unavailable.iter().flat_map(|known| &known.names);
    for name in ids.chain(aliases).chain(unavailable) {
        assert!(seen.insert(name), "{name} is there twice");
        assert!(!name.eq_ignore_ascii_case("auto"));
    }
    let engines: HashSet<_> = catalogue.models.iter().map(|entry| &entry.engine).collect();
    assert!(
        engines
            .iter()
            .all(|engine| **engine == VAD || !seen.contains(*engine))
    );
}

#[test]
fn every_alias_points_to_entries_or_engines_that_exist() {
    for alias in &catalogue().aliases {
        assert!(
            alias.models.is_empty() != alias.engines.is_empty(),
            "{:?} names models or engines",
            alias.names
        );
        for model in &alias.models {
            assert!(entry(model).is_some(), "{model} is no entry");
        }
        for engine in &alias.engines {
            assert!(
                entries().iter().any(|entry| entry.engine == *engine),
                "{engine} is no engine"
            );
        }
    }
    for known in &catalogue().unavailable {
        if let Some(instead) = &known.instead {
            assert!(entry(instead).is_some(), "{instead} is no entry");
        }
    }
    for served in catalogue().served_engines() {
        assert!(entries().iter().any(|entry| entry.engine == *served));
    }
}

#[test]
fn every_entry_has_a_layout_a_size_and_a_repository() {
    for entry in entries() {
        let layout = catalogue().layout(&entry.layout).unwrap();
        assert!(!layout.int8.is_empty() && !layout.float.is_empty());
        assert!(entry.int8_bytes > 0 && entry.int8_bytes <= entry.float_bytes);
        assert!(entry.parameters > 0 && entry.quality <= 100);
        assert!(
            entry.bundled || entry.id.split('/').count() == 2,
            "{} has no repository",
            entry.id
        );
        assert!(
            entry.languages.as_ref().is_none_or(|list| !list.is_empty()),
            "{} has an empty language list",
            entry.id
        );
    }
}

#[test]
fn a_repository_is_told_by_its_files() {
    let kind = |files: &[&str], model_type: Option<&str>| {
        let found = catalogue().layout_of(|name| files.contains(&name), model_type);
        found.map(|(name, layout)| (name, layout.engine.as_str()))
    };
    let speech = ["config.json", "preprocessor_config.json", "onnx/model.onnx"];
    let aligner = [&speech[..], &["vocab.json"]].concat();
    type Case<'a> = (&'a [&'a str], Option<&'a str>, Option<(&'a str, &'a str)>);
    let cases: &[Case<'_>] = &[
        (
            &speech,
            Some("pyannet"),
            Some(("pyannote-segmentation", "pyannote")),
        ),
        (&speech, Some("vit"), None),
        (&aligner, Some("wav2vec2"), Some(("wav2vec2", "wav2vec2"))),
        (&aligner, None, Some(("wav2vec2", "wav2vec2"))),
        (
            &["vocab.txt", "model.int8.onnx"],
            None,
            Some(("nemo-ctc", "parakeet")),
        ),
        (
            &[
                "vocab.txt",
                "encoder-model.onnx",
                "decoder_joint-model.onnx",
                "config.json",
            ],
            Some("nemo-conformer-tdt"),
            Some(("nemo-transducer", "parakeet")),
        ),
        (
            &["voxceleb_resnet34_LM.onnx"],
            None,
            Some(("wespeaker", "wespeaker")),
        ),
        (&["model.onnx"], None, None),
        (&["config.json", "model.safetensors"], Some("whisper"), None),
    ];
    for (files, model_type, expected) in cases {
        assert_eq!(kind(files, *model_type), *expected, "{files:?}");
    }
    for engine in catalogue()
        .hub()
        .libraries
        .values()
        .chain(catalogue().hub().tags.values())
    {
        assert!(catalogue().serves(engine), "{engine}");
    }
}

#[test]
fn the_page_on_models_has_a_row_for_every_entry() {
    let page = include_str!("../../../docs/models.md");
    for entry in entries() {
        let row = format!("| `{}`", entry.id);
        let row = page.lines().find(|line| line.starts_with(&row));
        let row = row.unwrap_or_else(|| panic!("{} has no row", entry.id));
        assert!(row.contains(&entry.licence), "{row}");
        assert_eq!(
            row.contains("not run yet"),
            !catalogue().serves(&entry.engine),
            "{row}"
        );
    }
}

#[test]
fn every_registry_id_of_the_contract_is_known() {
    for name in [
        "Systran/faster-whisper-tiny",
        "Systran/faster-whisper-base",
        "Systran/faster-whisper-small",
        "Systran/faster-whisper-medium",
        "Systran/faster-whisper-large-v3",
        "Systran/faster-distil-whisper-large-v3",
        "nvidia/parakeet-ctc-0.6b",
        "nvidia/parakeet-ctc-1.1b",
        "nvidia/parakeet-rnnt-0.6b",
        "nvidia/parakeet-tdt-0.6b-v3",
        "nvidia/parakeet-tdt-1.1b",
        "istupakov/parakeet-ctc-0.6b-onnx",
        "istupakov/parakeet-rnnt-0.6b-onnx",
        "istupakov/parakeet-tdt-0.6b-v2-onnx",
        "istupakov/parakeet-tdt-0.6b-v3-onnx",
        "pyannote/speaker-diarization-community-1",
        "nvidia/diar-msdd-telephonic",
        "nvidia/diar-sortformer-4spk-v2.1",
        "facebook/wav2vec2-base-960h",
        "jonatasgrosman/wav2vec2-large-xlsr-53-japanese",
        "urchade/gliner_multi-v2.1",
        "vllm-asr-qwen2-audio-7b",
        "vllm-asr-voxtral-mini-3b",
        "vllm-asr-voxtral-small-24b",
        "faster-whisper",
        "nemo",
        "onnx",
        "hf-asr",
        "vllm-asr",
        "riva",
        "phoneme-align",
        "pyannote-4.0",
        "nemo-msdd",
        "nemo-sortformer",
        "pii-presidio",
        "audio-redactor",
        "whisper-1",
        "gpt-4o-transcribe",
        "gpt-4o-mini-transcribe",
        "gpt-4o-mini-transcribe-2025-12-15",
        "gpt-4o-transcribe-latest",
        "gpt-4o-transcribe-diarize",
        "gpt-transcribe",
    ] {
        assert_ne!(catalogue().meaning(name), Meaning::Unknown, "{name}");
    }
}

#[test]
fn names_resolve_to_the_model_that_serves_them() {
    let english = Wish::transcribe(Some("en"));
    let german = Wish::transcribe(Some("de"));
    let unknown = Wish::transcribe(None);
    let translate = Wish {
        translate: true,
        ..unknown
    };
    let cases: &[(&str, &Wish<'_>, &[&str], Option<&str>)] = &[
        // A pinned id is used as it is.
        (BASE, &unknown, &[TINY, BASE, TURBO], Some(BASE)),
        (NANO, &english, &[NANO, VAD], Some(NANO)),
        (" whisper-nano ", &english, &[NANO], Some(NANO)),
        // Aliases prefer the variant with word times and take the other.
        (
            "Systran/faster-whisper-base",
            &unknown,
            &[BASE_SEGMENTS, BASE],
            Some(BASE),
        ),
        (
            "Systran/faster-whisper-base",
            &unknown,
            &[BASE_SEGMENTS],
            Some(BASE_SEGMENTS),
        ),
        (
            "nvidia/parakeet-tdt-0.6b-v2",
            &english,
            &[PARAKEET],
            Some(PARAKEET),
        ),
        // A pin is never replaced by another model.
        (
            "Systran/faster-whisper-base",
            &unknown,
            &[NANO, TURBO],
            None,
        ),
        ("nvidia/parakeet-tdt-0.6b-v3", &unknown, &[TURBO], None),
        (BASE_EN, &german, &[BASE_EN, TURBO], None),
        (TURBO, &translate, &[TURBO, BASE], None),
        (VAD, &english, &[NANO, VAD], None),
        // Engines and the models of other services.
        ("whisper", &unknown, &[NANO, TINY, BASE], Some(BASE)),
        ("faster-whisper", &unknown, &[NANO], Some(NANO)),
        ("whisper-1", &german, &[NANO, TINY], Some(TINY)),
        ("whisper-1", &german, &[NANO], None),
        ("gpt-4o-transcribe", &english, &[PARAKEET, BASE], Some(BASE)),
        ("onnx", &english, &[PARAKEET, BASE], Some(PARAKEET)),
        ("nemo", &english, &[BASE], None),
        // auto: quality, once the model knows the language.
        (
            "auto",
            &english,
            &[BASE, TURBO, PARAKEET, NANO],
            Some(PARAKEET),
        ),
        ("AUTO", &german, &[BASE, TURBO, PARAKEET, NANO], Some(TURBO)),
        // Of the bundled ones Parakeet for English; what translates is Whisper.
        (
            "auto",
            &english,
            &[NANO, PARAKEET_NANO],
            Some(PARAKEET_NANO),
        ),
        (
            "auto",
            &unknown,
            &[NANO, PARAKEET_NANO],
            Some(PARAKEET_NANO),
        ),
        ("auto", &unknown, &[TINY, PARAKEET_NANO], Some(TINY)),
        ("auto", &english, &[TINY, PARAKEET_NANO], Some(TINY)),
        ("auto", &english, &[TURBO, PARAKEET_V3], Some(PARAKEET_V3)),
        (
            "auto",
            &german,
            &[NANO, PARAKEET_NANO, PARAKEET_V3],
            Some(PARAKEET_V3),
        ),
        ("auto", &translate, &[NANO, PARAKEET_NANO], Some(NANO)),
        (
            "auto",
            &Wish::transcribe(Some("en-GB")),
            &[NANO],
            Some(NANO),
        ),
        ("auto", &english, &[BASE, BASE_EN], Some(BASE_EN)),
        ("auto", &english, &[BASE, BASE_SEGMENTS], Some(BASE)),
        // An unknown language wants a multilingual model, even a smaller one.
        ("auto", &unknown, &[PARAKEET, BASE_EN, TINY], Some(TINY)),
        ("auto", &unknown, &[NANO, VAD], Some(NANO)),
        ("auto", &translate, &[TURBO, BASE], Some(BASE)),
        ("auto", &unknown, &[VAD], None),
        ("auto", &unknown, &[], None),
        ("whisper-99", &unknown, &[NANO], None),
    ];
    for (requested, wish, ids, expected) in cases {
        assert_eq!(
            chosen(requested, wish, ids).as_deref(),
            *expected,
            "{requested} for {wish:?} among {ids:?}"
        );
    }
}

#[test]
fn an_imported_model_is_found_by_its_own_name_and_ranked_by_its_size() {
    let mut ours = entry(BASE).unwrap().offered("cpu", 900_000_000);
    ours.capability.model = "our/medical-whisper".to_owned();
    let mut offered = present(&[NANO, BASE]);
    offered.push(ours);
    let wish = Wish::transcribe(None);
    let exact = resolve("our/medical-whisper", &wish, &offered);
    assert!(matches!(exact, Resolution::Exact(_)));
    let auto = resolve("auto", &wish, &offered);
    assert_eq!(
        auto.chosen().unwrap().capability.model,
        "our/medical-whisper"
    );
}

#[test]
fn auto_prefers_any_real_model_to_one_of_an_unknown_engine() {
    let mut offered = present(&[NANO]);
    let mut sleep = entry(BASE).unwrap().offered("cpu", 0);
    sleep.capability.engine = "sleep".to_owned();
    sleep.capability.model = "sleep".to_owned();
    offered.insert(0, sleep);
    for wish in [Wish::transcribe(None), Wish::transcribe(Some("en"))] {
        let chosen = resolve("auto", &wish, &offered).chosen();
        assert_eq!(chosen.unwrap().capability.model, NANO);
    }
}

#[test]
fn the_same_model_on_two_workers_is_ranked_once() {
    let offered = present(&[NANO, NANO, VAD]);
    let Resolution::Auto { ranked } = resolve("auto", &Wish::transcribe(None), &offered) else {
        panic!("auto resolves to auto");
    };
    assert_eq!(ranked.len(), 1);
}

#[test]
fn a_refusal_has_a_code_and_says_what_to_do() {
    let offered = present(&[NANO, VAD, BASE_EN]);
    let unknown = Wish::transcribe(None);
    let german = Wish::transcribe(Some("de"));
    let cases: &[(&str, &Wish<'_>, &str, &str)] = &[
        (
            "whisper-99",
            &unknown,
            "model_not_found",
            "dalston models list",
        ),
        (
            "Systran/faster-whisper-small",
            &unknown,
            "model_not_ready",
            "dalston models pull onnx-community/whisper-small_timestamped",
        ),
        (
            "nvidia/parakeet-tdt-0.6b-v3",
            &unknown,
            "model_not_ready",
            "dalston models pull istupakov/parakeet-tdt-0.6b-v3-onnx",
        ),
        ("riva", &unknown, "model_not_found", "use onnx-community/"),
        (BASE_EN, &german, "runtime_unavailable", "knows only en"),
        (VAD, &unknown, "model_stage_mismatch", "stage prepare"),
        (
            "auto",
            &german,
            "runtime_unavailable",
            "transcribe in de. Run `dalston models pull onnx-community/whisper-base_timestamped`",
        ),
        (
            "whisper",
            &german,
            "runtime_unavailable",
            "no model of whisper",
        ),
    ];
    for (requested, wish, code, part) in cases {
        let resolution = resolve(requested, wish, &offered);
        assert_eq!(resolution.refusal_code(), Some(*code), "{requested}");
        let sentence = resolution.explain(requested, wish);
        assert!(sentence.contains(part), "{requested}: {sentence}");
    }
}

#[test]
fn a_choice_says_why() {
    let english = Wish::transcribe(Some("en"));
    let unknown = Wish::transcribe(None);
    let cases: &[(&str, &Wish<'_>, &[&str], &str)] = &[
        (
            "auto",
            &english,
            &[NANO, PARAKEET_NANO],
            "parakeet-tdt-nano is the best model present for transcribe in en, before whisper-nano",
        ),
        (
            "auto",
            &unknown,
            &[NANO, PARAKEET_NANO, TINY],
            "onnx-community/whisper-tiny_timestamped is the best model present for transcribe: the language is not known \
             yet and it knows many, unlike parakeet-tdt-nano and 1 more",
        ),
        (
            "whisper",
            &english,
            &[NANO, PARAKEET_NANO],
            "whisper-nano is the best model present for transcribe in en, the only one that suits",
        ),
        (
            "nvidia/parakeet-tdt-0.6b-v2",
            &english,
            &[PARAKEET],
            "istupakov/parakeet-tdt-0.6b-v2-onnx serves nvidia/parakeet-tdt-0.6b-v2",
        ),
        (NANO, &english, &[NANO], "whisper-nano was asked for"),
    ];
    for (requested, wish, ids, expected) in cases {
        let offered = present(ids);
        let resolution = resolve(requested, wish, &offered);
        assert_eq!(resolution.refusal_code(), None);
        assert_eq!(resolution.explain(requested, wish), *expected);
    }
}

#[test]
fn a_part_is_not_asked_for_by_itself() {
    let wish = Wish {
        stage: Stage::Diarize,
        language: None,
        translate: false,
    };
    let offered = present(&["pyannote-segmentation-nano"]);
    let resolution = resolve("wespeaker-nano", &wish, &offered);
    assert_eq!(resolution.refusal_code(), Some("model_stage_mismatch"));
    let sentence = resolution.explain("wespeaker-nano", &wish);
    assert!(sentence.contains("runs nothing by itself"), "{sentence}");
}
