"""Transcribes one file again and again with a peer: a pass for every line on standard input, a line of JSON for each.

    python worker.py ENGINE MODEL AUDIO.wav THREADS BATCH      ENGINE: faster-whisper | onnx-asr | parakeet | transformers

The audio is cut into windows of 30 s, as `engines/examples/asr_bench.rs` cuts it; greedy, English, no fallback.
"""
import json
import resource
import sys
import time
import wave

import numpy as np

WINDOW = 30 * 16000


def faster_whisper(model, audio, threads, batch):
    from faster_whisper import BatchedInferencePipeline, WhisperModel
    loaded = WhisperModel(model, device="cpu", compute_type="int8", cpu_threads=threads)
    if batch == 1:
        return lambda: [s.text for s in loaded.transcribe(
            audio, language="en", beam_size=1, temperature=0.0, condition_on_previous_text=False, vad_filter=False)[0]]
    clips = [{"start": s / 16000, "end": min(s + WINDOW, len(audio)) / 16000} for s in range(0, len(audio), WINDOW)]
    pipeline = BatchedInferencePipeline(loaded)
    return lambda: [s.text for s in pipeline.transcribe(
        audio, language="en", beam_size=1, temperature=0.0, batch_size=batch, vad_filter=False, clip_timestamps=clips)[0]]


def batches(audio, batch):
    windows = [audio[s : s + WINDOW] for s in range(0, len(audio), WINDOW)]
    return [windows[i : i + batch] for i in range(0, len(windows), batch)]


def onnx_asr(model, audio, threads, batch):
    import onnx_asr as peer
    import onnxruntime
    session = onnxruntime.SessionOptions()
    session.intra_op_num_threads = threads
    loaded = peer.load_model("whisper", model, quantization="int8", sess_options=session, providers=["CPUExecutionProvider"])
    return lambda: [text for part in batches(audio, batch) for text in loaded.recognize(part, sample_rate=16000, language="en")]


def parakeet(model, audio, threads, batch):
    """onnx-asr on a Parakeet folder in its own layout."""
    import onnx_asr as peer
    import onnxruntime
    session = onnxruntime.SessionOptions()
    session.intra_op_num_threads = threads
    loaded = peer.load_model("nemo-conformer-tdt", model, quantization="int8", sess_options=session, providers=["CPUExecutionProvider"])
    return lambda: [text for part in batches(audio, batch) for text in loaded.recognize(part, sample_rate=16000)]


def transformers(model, audio, threads, batch):
    import torch
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizerFast
    torch.set_num_threads(threads)
    loaded = WhisperForConditionalGeneration.from_pretrained(model).eval()
    extract = WhisperFeatureExtractor.from_pretrained(model)
    tokenizer = WhisperTokenizerFast.from_pretrained(model)

    def run():
        texts = []
        for part in batches(audio, batch):
            features = extract(part, sampling_rate=16000, return_tensors="pt").input_features
            with torch.inference_mode():
                ids = loaded.generate(features, language="en", task="transcribe", return_timestamps=True, num_beams=1, do_sample=False)
            texts += tokenizer.batch_decode(ids, skip_special_tokens=True)
        return texts
    return run


def main():
    engine, model, path, threads, batch = sys.argv[1:]
    with wave.open(path) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2), "16 kHz mono s16 wanted"
        audio = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768
    make = {"faster-whisper": faster_whisper, "onnx-asr": onnx_asr, "parakeet": parakeet, "transformers": transformers}[engine]
    run = make(model, audio, int(threads), int(batch))
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        texts = run()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(json.dumps({
            "audio_s": len(audio) / 16000, "wall_s": wall, "cpu_s": cpu,
            "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "text": " ".join(text.strip() for text in texts),
        }), flush=True)


if __name__ == "__main__":
    main()
