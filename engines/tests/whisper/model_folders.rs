//! Folders in every published shape, and broken ones.

use std::path::{Path, PathBuf};

use dalston_engines::model_folder::{DecoderGraphs, ModelFolder, Precision};
use dalston_engines::{Device, EngineError};
use serde_json::{Value, json};

use crate::fixture::model_dir;

/// A copy of the nano folder's text files, and empty graphs, to be changed at will.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, graphs: &[&str]) -> Self {
        let path =
            std::env::temp_dir().join(format!("dalston-folder-{name}-{}", std::process::id()));
        std::fs::create_dir_all(path.join("onnx")).unwrap();
        for file in [
            "config.json",
            "generation_config.json",
            "preprocessor_config.json",
            "tokenizer.json",
        ] {
            std::fs::copy(model_dir().join(file), path.join(file)).unwrap();
        }
        for graph in graphs {
            std::fs::write(path.join(graph), b"").unwrap();
        }
        Self(path)
    }

    fn change(&self, file: &str, change: impl Fn(&mut Value)) {
        let path = self.0.join(file);
        let mut value: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        std::fs::write(path, value.to_string()).unwrap();
    }

    fn read(&self, precision: Precision, device: Device) -> Result<ModelFolder, EngineError> {
        ModelFolder::read(&self.0, precision, device)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const MERGED: [&str; 4] = [
    "onnx/encoder_model.onnx",
    "onnx/decoder_model_merged.onnx",
    "onnx/encoder_model_quantized.onnx",
    "onnx/decoder_model_merged_quantized.onnx",
];

#[test]
fn int8_runs_on_the_cpu_and_float_on_cuda_unless_asked_otherwise() {
    let folder = Folder::new("precision", &MERGED);
    let chosen = |precision, device| folder.read(precision, device).unwrap().graphs.precision;
    assert_eq!(chosen(Precision::Auto, Device::Cpu), Precision::Int8);
    assert_eq!(chosen(Precision::Auto, Device::Cuda), Precision::Float);
    assert_eq!(chosen(Precision::Float, Device::Cpu), Precision::Float);
}

#[test]
fn graphs_are_found_at_the_top_level_and_by_every_published_suffix() {
    for suffix in ["", "_quantized", "_int8", ".int8", "-int8"] {
        let graphs = [
            format!("encoder_model{suffix}.onnx"),
            format!("decoder_model_merged{suffix}.onnx"),
        ];
        let names: Vec<&str> = graphs.iter().map(String::as_str).collect();
        let folder = Folder::new(&format!("suffix{suffix}"), &names);
        let found = folder.read(Precision::Auto, Device::Cpu).unwrap().graphs;
        assert_eq!(found.encoder, folder.0.join(&graphs[0]));
        assert_eq!(
            found.decoder,
            DecoderGraphs::Merged(folder.0.join(&graphs[1]))
        );
    }
}

#[test]
fn a_decoder_in_two_graphs_needs_both() {
    let one = Folder::new(
        "one",
        &["onnx/encoder_model.onnx", "onnx/decoder_model.onnx"],
    );
    let error = one
        .read(Precision::Float, Device::Cpu)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("onnx/decoder_with_past_model.onnx")
            && error.contains("dalston models pull"),
        "{error}"
    );
    let both = [
        "onnx/encoder_model.onnx",
        "onnx/decoder_model.onnx",
        "onnx/decoder_with_past_model.onnx",
    ];
    let both = Folder::new("both", &both)
        .read(Precision::Auto, Device::Cpu)
        .unwrap();
    assert!(matches!(
        both.graphs.decoder,
        DecoderGraphs::WithPast { .. }
    ));
}

#[test]
fn a_missing_file_is_named() {
    let folder = Folder::new("missing", &MERGED);
    std::fs::remove_file(folder.0.join("config.json")).unwrap();
    let error = folder.read(Precision::Auto, Device::Cpu).unwrap_err();
    assert!(
        matches!(&error, EngineError::ModelFileMissing { file, .. } if file == "config.json"),
        "{error}"
    );
    let empty = Folder::new("no-graphs", &[])
        .read(Precision::Float, Device::Cpu)
        .unwrap_err()
        .to_string();
    assert!(empty.contains("onnx/encoder_model.onnx"), "{empty}");
}

#[test]
fn an_english_only_model_has_no_language_and_no_task() {
    let folder = Folder::new("english", &MERGED);
    folder.change("generation_config.json", |config| {
        let config = config.as_object_mut().unwrap();
        config.remove("lang_to_id");
        config.remove("task_to_id");
        config.insert("is_multilingual".to_owned(), json!(false));
    });
    let model = folder.read(Precision::Auto, Device::Cpu).unwrap();
    assert!(!model.is_multilingual());
    assert_eq!(
        (model.tokens.transcribe, model.tokens.translate),
        (None, None)
    );
    assert_eq!(
        (
            model.tokens.sot,
            model.tokens.eot,
            model.tokens.no_timestamps
        ),
        (849, 848, 954)
    );
}

#[test]
fn an_old_export_without_generation_config_is_read_from_its_tokens() {
    let folder = Folder::new("old", &MERGED);
    std::fs::remove_file(folder.0.join("generation_config.json")).unwrap();
    std::fs::remove_file(folder.0.join("preprocessor_config.json")).unwrap();
    let model = folder.read(Precision::Auto, Device::Cpu).unwrap();
    assert_eq!(model.tokens.languages.len(), 99);
    assert_eq!(model.tokens.language("fr"), Some(856));
    assert_eq!(model.tokens.timestamp_begin, 955);
    assert_eq!(
        (model.tokens.no_speech, model.tokens.sot_prev),
        (Some(953), Some(952))
    );
    assert_eq!((model.max_length, model.alignment_heads), (448, None));
    assert_eq!(model.features.n_samples, 480_000);
}

#[test]
fn files_that_contradict_each_other_are_refused() {
    let folder = Folder::new("contradiction", &MERGED);
    folder.change("preprocessor_config.json", |config| {
        config["feature_size"] = json!(128);
    });
    let error = folder
        .read(Precision::Auto, Device::Cpu)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("128 mel bands") && error.contains("preprocessor_config.json"),
        "{error}"
    );
}

#[test]
fn a_model_of_another_kind_is_refused() {
    let folder = Folder::new("kind", &MERGED);
    folder.change("config.json", |config| {
        config["model_type"] = json!("moonshine");
    });
    assert!(folder.read(Precision::Auto, Device::Cpu).is_err());
    let missing =
        ModelFolder::read(Path::new("/nowhere"), Precision::Auto, Device::Cpu).unwrap_err();
    assert!(missing.to_string().contains("config.json"), "{missing}");
}
