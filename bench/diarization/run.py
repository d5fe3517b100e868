"""Diarization beside pyannote: same weights, same machine, same threads, same audio.

    python bench/diarization/run.py [--threads 1] [--rounds 5] [--seconds 300] [--peers reference,pyannote]

Peers: `reference` is the published steps in numpy and scipy on ONNX Runtime (reference.py); `pyannote` is the real
pyannote.audio pipeline put together on the same two models (pyannote_peer.py), installed into an environment of its own
(several gigabytes: it brings PyTorch). All stay loaded and take turns (A B C, A B C …) after a pass to warm up; the
figure of each is the median of its passes. With one thread everything is pinned to one core and CPU seconds are
compared, which a busy machine does not distort; with more, wall seconds.

A ratio is our throughput over the other's: above 1 we are faster. The last column is how much of the other's speech we
give to the same speaker. The memory row is the peak of a process that diarized an hour over that of one that diarized
six minutes. Writes bench/out/diarization.json. Peers that cannot be installed are skipped with a line that says so.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import wave
from itertools import permutations
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
CACHE = REPOSITORY / "bench" / ".cache"
OUT = REPOSITORY / "bench" / "out"
OURS = REPOSITORY / "target" / "release" / "examples" / "diarize_bench"
MODELS = [REPOSITORY / "engines" / "models" / name for name in ("pyannote-segmentation-nano", "wespeaker-nano")]
SPEECH = REPOSITORY / "tests" / "audio" / "dialogues"
PEERS = {"reference": ("reference.py", "requirements.txt"), "pyannote": ("pyannote_peer.py", "requirements-pyannote.txt")}
GOAL = 2.0


def run(command, **options):
    print("+", " ".join(map(str, command)), flush=True)
    subprocess.run(list(map(str, command)), check=True, **options)


def peer_python(peer):
    """The interpreter of a peer's environment; None when it cannot be had."""
    wanted = HERE / PEERS[peer][1]
    folder = CACHE / f"diarization-{peer}-venv"
    python, mark = folder / "bin" / "python", folder / "installed.txt"
    if mark.is_file() and mark.read_text() == wanted.read_text():
        return python
    try:
        run([sys.executable, "-m", "venv", folder])
        run([python, "-m", "pip", "install", "--quiet", "-r", wanted])
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"SKIPPED {peer}: it cannot be installed here ({error}).")
        return None
    mark.write_text(wanted.read_text())
    return python


def make_audio(seconds):
    """Bundled conversations, one after the other."""
    path = CACHE / f"conversations-{seconds}s.wav"
    if not path.is_file():
        recordings = []
        for source in sorted(SPEECH.glob("dlg0?.wav")):
            with wave.open(str(source)) as file:
                recordings.append(file.readframes(file.getnframes()))
        frames = b"".join(recordings)
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            for at in range(0, seconds * 32000, len(frames)):
                file.writeframes(frames[:seconds * 32000 - at])
    return path


class Engine:
    """A process that diarizes the file once for every line it is sent."""

    def __init__(self, name, command, audio, threads):
        self.name = name
        command = [*command, *MODELS, audio, threads]
        if threads == 1:
            # The last core: the first one serves most interrupts.
            command = ["taskset", "-c", (os.cpu_count() or 1) - 1, *command]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment.update({name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")})
        self.errors = CACHE / f"diarization-{name}.log"
        self.process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
            stderr=self.errors.open("w"))

    def diarize(self):
        """One pass; None when the engine has died."""
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:
            line = ""
        return json.loads(line) if line else None

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def agreement(ours, theirs, step=0.01):
    """Share of the other's speech, in steps of 10 ms, that we give to the same speaker under the best mapping."""
    def steps(turns):
        return {(at, speaker) for start, end, speaker in turns for at in range(round(start / step), round(end / step))}
    ours, theirs = steps(ours), steps(theirs)
    names = [sorted({speaker for _, speaker in found}) for found in (ours, theirs)]
    together = {}
    by_time = {}
    for at, speaker in ours:
        by_time.setdefault(at, []).append(speaker)
    for at, other in theirs:
        for speaker in by_time.get(at, []):
            together[other, speaker] = together.get((other, speaker), 0) + 1
    few, many = names[1], names[0] + [None] * len(names[1])
    if len(few) > 4:
        # Too many to try them all: the most alike first.
        mapping, best = set(), 0
        for (other, speaker), count in sorted(together.items(), key=lambda pair: -pair[1]):
            if not any(other == a or speaker == b for a, b in mapping):
                mapping.add((other, speaker))
                best += count
    else:
        best = max(sum(together.get(pair, 0) for pair in zip(few, order)) for order in set(permutations(many, len(few))))
    return best / max(1, len(theirs))


def row(name, ours, reference, unit):
    return {"name": name, "ours": round(ours, 2), "reference": round(reference, 2), "ratio": round(ours / reference, 3),
            "unit": unit}


def start(options, audio):
    """Every engine that runs, warmed up."""
    commands = {"ours": [OURS]}
    for peer in filter(None, options.peers.split(",")):
        python = peer_python(peer)
        if python:
            commands[peer] = [python, HERE / PEERS[peer][0]]
    engines = []
    for name, command in commands.items():
        engine = Engine(name, command, audio, options.threads)
        if engine.diarize():
            engines.append(engine)
        elif name == "ours":
            raise SystemExit(f"our own program does not run: see {engine.errors}")
        else:
            last = engine.errors.read_text().strip().splitlines()[-1:] or ["no message"]
            print(f"SKIPPED {name}: it does not run here ({last[0]})")
    return engines


def measure(options):
    audio = make_audio(options.seconds)
    engines = start(options, audio)
    passes = {engine.name: [] for engine in engines}
    for _ in range(options.rounds):
        for engine in engines:
            passes[engine.name].append(engine.diarize())
    for engine in engines:
        engine.stop()
    print(f"\n{options.seconds} s of conversations, {options.threads} thread(s), median of {options.rounds}")
    print(f"  {'engine':12} {'cpu s':>8} {'wall s':>8} {'x real time':>12} {'peak MiB':>9}  same speaker")
    figures = {}
    for name, results in passes.items():
        median = {key: statistics.median(result[key] for result in results) for key in ("cpu_s", "wall_s")}
        figures[name] = options.seconds / median["cpu_s" if options.threads == 1 else "wall_s"]
        alike = agreement(passes["ours"][0]["turns"], results[0]["turns"])
        print(f"  {name:12} {median['cpu_s']:8.2f} {median['wall_s']:8.2f} {figures[name]:12.1f} "
              f"{results[-1]['peak_rss_mib']:9}  {alike:.2%}")
    return [row(f"nano_vs_{name}", figures["ours"], figure, "audio seconds per second")
            for name, figure in figures.items() if name != "ours"]


def memory(options):
    peaks = []
    for seconds in (360, 3600):
        engine = Engine("ours", [OURS], make_audio(seconds), options.threads)
        peaks.append(engine.diarize()["peak_rss_mib"])
        engine.stop()
    return [row("memory_1h_vs_6min", peaks[1], peaks[0], "MiB at the peak (lower is better)")]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=int, default=300)
    arguments.add_argument("--peers", default=",".join(PEERS), help="which to measure, separated by commas")
    options = arguments.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    OUT.mkdir(parents=True, exist_ok=True)
    run([os.environ.get("CARGO", "cargo"), "build", "--release", "--locked", "-p", "dalston-engines", "--example",
         "diarize_bench"], cwd=REPOSITORY)
    rows = measure(options) + memory(options)
    (OUT / "diarization.json").write_text(json.dumps(rows, indent=2) + "\n")
    print(f"\n{'':24} {'ours':>9} {'other':>9} {'ratio':>7}  goal")
    for result in rows:
        goal = GOAL if "_vs_" in result["name"] and result["name"].startswith("nano") else ""
        print(f"{result['name']:24} {result['ours']:9.1f} {result['reference']:9.1f} {result['ratio']:7.2f}  {goal}")
    print(f"written to {(OUT / 'diarization.json').relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
