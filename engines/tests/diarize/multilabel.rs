//! An export of the older kind: every track has a probability of its own, tensors are called `x` and `y`, and only the
//! metadata says what it is. The network is a loudness meter: its first track is active where audio is loud.

use std::path::Path;

use dalston_engines::graph::onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, element,
};
use dalston_engines::registry::engine_of;
use dalston_engines::{DiarizeRequest, Diarizer, LoadedModel, Precision, SpeakerSegmentation};
use prost::Message;

use crate::fixture::{dialogue, embedding, options, runtime};
use crate::scoring::{Turn, error_rate, read_rttm, turns};

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        ints: values.to_vec(),
        r#type: 7,
        ..Default::default()
    }
}

fn node(op_type: &str, input: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: op_type.to_owned(),
        input: input.iter().map(|&name| name.to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute,
        ..Default::default()
    }
}

fn constant(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: element::FLOAT,
        float_data: values.to_vec(),
        ..Default::default()
    }
}

/// A float tensor of three sizes, `None` where known at run time.
fn port(name: &str, dims: [Option<i64>; 3]) -> dalston_engines::graph::onnx::ValueInfoProto {
    use dalston_engines::graph::onnx::{
        Dimension, DimensionProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
    };
    let dim = dims.iter().enumerate().map(|(at, size)| DimensionProto {
        value: Some(match size {
            Some(size) => Dimension::Size(*size),
            None => Dimension::Name(format!("{name}{at}")),
        }),
    });
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            tensor_type: Some(TensorTypeProto {
                elem_type: element::FLOAT,
                shape: Some(TensorShapeProto { dim: dim.collect() }),
            }),
        }),
    }
}

fn write_model(folder: &Path) {
    let graph = GraphProto {
        name: "loudness".to_owned(),
        node: vec![
            node("Abs", &["x"], "level", vec![]),
            node(
                "AveragePool",
                &["level"],
                "mean",
                vec![ints("kernel_shape", &[991]), ints("strides", &[270])],
            ),
            node(
                "Conv",
                &["mean", "w", "b"],
                "score",
                vec![ints("kernel_shape", &[1])],
            ),
            node("Sigmoid", &["score"], "probability", vec![]),
            node(
                "Transpose",
                &["probability"],
                "y",
                vec![ints("perm", &[0, 2, 1])],
            ),
        ],
        initializer: vec![
            constant("w", &[3, 1, 1], &[2_000.0, 0.0, 0.0]),
            constant("b", &[3], &[-10.0, -10.0, -10.0]),
        ],
        input: vec![port("x", [None, Some(1), None])],
        output: vec![port("y", [None, None, Some(3)])],
    };
    let model = ModelProto {
        ir_version: 8,
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto {
            domain: String::new(),
            version: 17,
        }],
        ..Default::default()
    };
    let mut file = model.encode_to_vec();
    for (key, value) in [
        ("model_type", "pyannote-segmentation"),
        ("sample_rate", "16000"),
        ("window_size", "160000"),
        ("receptive_field_size", "991"),
        ("receptive_field_shift", "270"),
    ] {
        // metadata_props, which the rewriting's protobuf does not know.
        let entry = dalston_engines::graph::onnx::StringStringEntryProto {
            key: key.to_owned(),
            value: value.to_owned(),
        };
        prost::encoding::message::encode(14, &entry, &mut file);
    }
    std::fs::write(folder.join("model.onnx"), file).unwrap();
}

#[test]
fn a_multilabel_export_is_recognised_by_its_metadata_and_tells_tracks_apart() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    let engine = engine_of(folder.path()).unwrap();
    assert_eq!(engine.id, "pyannote");
    let description =
        (engine.describe)(folder.path(), Precision::Auto, dalston_engines::Device::Cpu).unwrap();
    assert!(!description.component && description.languages.is_empty());
    let loaded = (engine.load)(&runtime(), folder.path(), &options()).unwrap();
    let LoadedModel::SpeakerSegmentation(segmentation) = loaded else {
        panic!("it is a segmentation model");
    };
    assert_eq!(segmentation.n_tracks(), 3);
    assert_eq!(segmentation.grid().n_frames, 589);

    let answer = Diarizer::new(segmentation, embedding())
        .diarize(DiarizeRequest {
            num_speakers: Some(1),
            ..DiarizeRequest::new(dialogue("dlg01"))
        })
        .unwrap();
    assert_eq!(answer.speakers.len(), 1);
    assert_eq!(answer.overlap_seconds, 0.0);
    // It finds the speech, whoever it is from.
    let speech: Vec<Turn> = read_rttm(&crate::fixture::truth("dlg01"))
        .into_iter()
        .map(|turn| Turn { speaker: 0, ..turn })
        .collect();
    let error = error_rate(&speech, &turns(&answer), 0.5);
    assert!(error.rate() < 0.2, "{error:?}");
}

#[test]
fn a_folder_without_a_model_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let error = SpeakerSegmentation::load(&runtime(), folder.path(), &options())
        .err()
        .unwrap();
    assert!(error.to_string().contains("model.onnx"), "{error}");
}
