//! The models that come with the program: small enough to be compiled in, so that a fresh machine transcribes without a
//! network. Only the int8 weights are here; the repository's `engines/models` has the rest for tests.

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
        id: "silero-vad",
        files: files!("silero-vad":
            "LICENSE",
            "silero_vad.onnx",
            "silero_vad_16k_sequence.onnx",
        ),
    },
];
