#!/usr/bin/env python3
"""Transcribes a bundled recording through the whole product and prints the text, the subtitles and how long it took."""

import json
import time
import wave

from product import RECORDING, Product


def seconds_of(path):
    with wave.open(str(path)) as recording:
        return recording.getnframes() / recording.getframerate()


def main():
    audio = seconds_of(RECORDING)
    with Product() as product:
        product.start()
        print(f"Started in {product.start_seconds:.1f} s: {product.url}\n")
        print(f"$ dalston transcribe {RECORDING.name}      ({audio:.0f} s of audio)\n")
        started = time.monotonic()
        result = json.loads(product.client("transcribe", str(RECORDING), "--json"))
        took = time.monotonic() - started
        print(result["text"].strip(), "\n")
        print(f"$ dalston export {result['id']} --format srt\n")
        print(product.client("export", result["id"], "--format", "srt").strip(), "\n")
        print(f"Upload to transcript: {took:.2f} s for {audio:.1f} s of audio, {audio / took:.1f} times faster than real time")
        product.stop()


if __name__ == "__main__":
    main()
