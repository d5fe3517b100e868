//! What is embedded is enough to run: the unpacked folders, not the repository's, are loaded here.

use std::path::Path;
use std::sync::Arc;

use dalston_engines::registry::{LoadOptions, engine_of};
use dalston_engines::transcriber::TranscribeRequest;
use dalston_engines::vad::{SileroVad, VadOptions};
use dalston_engines::{Control, Device, Runtime, RuntimeOptions, TranscribeOptions, WavSource};

use super::store;

const SPOKEN: &str = "Oliver and Wendy are coming tonight.";

#[tokio::test(flavor = "multi_thread")]
async fn the_unpacked_models_find_speech_and_transcribe_it() {
    let (_folder, store) = store();
    store.unpack_bundled().await.unwrap();
    let nano = store.get("whisper-nano").await.unwrap();
    let silero = store.get("silero-vad").await.unwrap();
    let runtime = Runtime::load(&RuntimeOptions {
        device: Device::Cpu,
        library: None,
    })
    .unwrap();
    let audio =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/audio/utterances/dev-00005.wav");
    let audio = Arc::new(WavSource::open(&audio).unwrap());

    let mut vad = SileroVad::load(&runtime, &silero.folder).unwrap();
    let speech = vad.speech(audio.as_ref(), &VadOptions::default(), &Control::default());
    assert_eq!(speech.unwrap().len(), 1);

    let options = LoadOptions {
        threads: 1,
        ..LoadOptions::for_device(Device::Cpu)
    };
    let engine = engine_of(&nano.folder).unwrap();
    assert_eq!(engine.id, nano.manifest.engine);
    let loaded = (engine.load)(&runtime, &nano.folder, &options).unwrap();
    let model = loaded.into_transcriber().unwrap();
    let words = TranscribeOptions {
        word_timestamps: true,
        ..TranscribeOptions::default()
    };
    let request = TranscribeRequest::new(audio, words);
    let result = model.transcribe(request).unwrap();
    assert_eq!(result.text, SPOKEN);
    assert_eq!(result.segments[0].words.len(), 6);
}
