#!/usr/bin/env python3
"""What takes too long for `make test`: ten minutes and three hours of conversation, with words and speakers, through the
product. States the realtime factor and the worker's memory, and insists that memory does not grow with the length.

    python scripts/test_long.py [--minutes 10,180] [--binary target/release/dalston]
"""

import argparse
import json
import os
import subprocess
import threading
import time
import wave
from pathlib import Path

import product as products

SPEECH = products.ROOT / "tests" / "audio" / "dialogues"
# Memory of the longest file over that of the shortest; what is kept of three hours is turns, words and voices.
MOST_GROWTH = 1.75
# Words a minute of the bundled conversations, and the share of them that must come back.
WORDS_A_MINUTE, SHARE = 120, 0.8


def write_recording(path, minutes):
    """The bundled conversations over and over."""
    left = minutes * 60 * 16_000 * 2
    with wave.open(str(path), "wb") as target:
        target.setparams((1, 2, 16_000, 0, "NONE", "not compressed"))
        while left > 0:
            for part in sorted(SPEECH.glob("dlg0?.wav")):
                with wave.open(str(part)) as source:
                    block = source.readframes(source.getnframes())[:left]
                target.writeframes(block)
                left -= len(block)


class Memory(threading.Thread):
    """Watches the most memory that the product's worker holds, in bytes."""

    def __init__(self, product):
        super().__init__(daemon=True)
        self.workers = [pid for pid, command in product.processes() if " worker" in command]
        self.most, self.over = 0, threading.Event()

    def run(self):
        while not self.over.wait(0.2):
            for pid in self.workers:
                try:
                    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                except OSError:
                    continue
                self.most = max(self.most, pages * os.sysconf("SC_PAGE_SIZE"))


def transcribe(product, path):
    """The transcript of a file, with words and speakers, by the command line."""
    environment = {**product.environment, "DALSTON_API_KEY": product.admin_key()}
    command = [str(products.BINARY), "transcribe", str(path), "--language", "en", "--model", "whisper-nano",
               "--model-align", "wav2vec2-nano", "--speakers", "diarize", "--quiet", "--json"]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"dalston transcribe exited {done.returncode}:\n{done.stdout}{done.stderr}\n{product.output()}")
    return json.loads(done.stdout)


def check(transcript, minutes):
    words, last = 0, 0.0
    for segment in transcript["segments"]:
        if not segment.get("speaker") and not segment.get("speaker_id"):
            raise SystemExit(f"a segment without a speaker: {segment}")
        if segment["start"] < last:
            raise SystemExit(f"a segment before its time: {segment}")
        last = segment["start"]
        words += len(segment["text"].split())
    if words < SHARE * WORDS_A_MINUTE * minutes or last < (minutes - 1) * 60:
        raise SystemExit(f"{words} words up to second {last:.0f} are too few for {minutes} minutes")
    return words


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", default="10,180")
    parser.add_argument("--binary", type=Path, default=products.BINARY)
    arguments = parser.parse_args()
    products.BINARY = arguments.binary.resolve()
    most = []
    with products.Product() as product:
        product.start([str(products.BINARY), "serve"])
        for minutes in map(int, arguments.minutes.split(",")):
            path = Path(product.folder.name) / f"{minutes}min.wav"
            write_recording(path, minutes)
            memory = Memory(product)
            memory.start()
            started = time.monotonic()
            transcript = transcribe(product, path)
            seconds = time.monotonic() - started
            memory.over.set()
            words = check(transcript, minutes)
            most.append(memory.most)
            print(f"{minutes} min: {words} words, {len(transcript['speakers'])} speakers, {seconds:.0f} s, realtime factor "
                  f"{seconds / (60 * minutes):.3f}, worker at most {memory.most / 2**20:.0f} MiB", flush=True)  # fmt: skip
        product.stop()
    if most[-1] > MOST_GROWTH * most[0]:
        raise SystemExit(f"memory grew from {most[0] >> 20} to {most[-1] >> 20} MiB")


if __name__ == "__main__":
    main()
