//! The models that come with the program: small enough to be compiled in, so that a fresh machine transcribes without a
//! network. Of int8 and float weights the smaller that keep the quality are here; the repository's `engines/models` has
//! the rest for tests.

/// A model compiled into the program.
#[derive(Clone, Copy, Debug)]
pub struct BundledModel {
    /// Id of its catalogue entry.
    pub id: &'static str,
    /// Its files: path in the folder, and contents.
    pub files: &'static [(&'static str, &'static [u8])],
}

/// The files of one model, by path in its folder under `engines/models`.
macro_rules! files {
    ($model:literal: $($path:literal),+ $(,)?) => {
        &[$((
            $path,
            include_bytes!(concat!("../../../engines/models/", $model, "/", $path)),
        )),+]
    };
}

/// Every bundled model.
pub const BUNDLED: &[BundledModel] = &[
    BundledModel {
        id: "whisper-nano",
        files: files!("whisper-nano":
            "config.json",
            "generation_config.json",
            "preprocessor_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "onnx/encoder_model_quantized.onnx",
            "onnx/decoder_model_merged_quantized.onnx",
            "onnx_timestamped/decoder_model_merged_quantized.onnx",
        ),
    },
    BundledModel {
        id: "parakeet-tdt-nano",
        files: files!("parakeet-tdt-nano":
            "config.json",
            "vocab.txt",
            "encoder-model.int8.onnx",
            "decoder_joint-model.int8.onnx",
        ),
    },
    BundledModel {
        id: "wav2vec2-nano",
        files: files!("wav2vec2-nano":
            "config.json",
            "preprocessor_config.json",
            "special_tokens_map.json",
            "tokenizer_config.json",
            "vocab.json",
            "onnx/model_quantized.onnx",
        ),
    },
    BundledModel {
        id: "pyannote-segmentation-nano",
        files: files!("pyannote-segmentation-nano":
            "config.json",
            "preprocessor_config.json",
            "model.onnx",
        ),
    },
    BundledModel {
        id: "wespeaker-nano",
        files: files!("wespeaker-nano": "model.onnx"),
    },
    BundledModel {
        id: "silero-vad",
        files: files!("silero-vad":
            "LICENSE",
            "silero_vad.onnx",
            "silero_vad_16k_sequence.onnx",
        ),
    },
];
