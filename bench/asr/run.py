"""Whisper and Parakeet beside other engines: same weights, same machine, same threads, same audio.

    python bench/asr/run.py [--models tiny,base,nano,parakeet,parakeet-0.6b] [--threads 1] [--rounds 5] [--seconds 240]

Models: `tiny` and `base` are Whispers of real size with random weights that say a known text (scripted_whisper.py), so
equal work and an exact oracle; `nano` is the bundled model on bundled speech. `parakeet` is the bundled Parakeet,
`parakeet-0.6b` one of full size with random weights (random_parakeet.py; made on request only, since NeMo takes several
gigabytes), and `parakeet=FOLDER` one in a folder of onnx-asr's layout; their peer is onnx-asr (int8, batched). Peers of
Whisper: faster-whisper (CTranslate2 int8, batched), onnx-asr (int8, batched) and transformers (PyTorch, float: the
reference), each at the batch size that is fastest for it here. All engines stay loaded and take turns (A B C, A B C …) after a pass to warm up; the figure of an
engine is the median of its passes. With one thread everything is pinned to one core and CPU seconds are compared,
which a busy machine does not distort; with more, wall seconds.

A ratio is our throughput over the other's: above 1 we are faster. The memory row is the peak of a process that
transcribed twenty minutes over that of one that transcribed two: 1 means flat. Writes bench/out/asr.json. Peers that
cannot be installed are skipped with a line that says so.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import wave
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
CACHE = REPOSITORY / "bench" / ".cache"
OUT = REPOSITORY / "bench" / "out"
PYTHON = CACHE / "asr-venv" / "bin" / "python"
NEMO = CACHE / "nemo-venv" / "bin" / "python"
OURS = REPOSITORY / "target" / "release" / "examples" / "asr_bench"
NANO = REPOSITORY / "engines" / "models" / "whisper-nano"
PARAKEET = REPOSITORY / "engines" / "models" / "parakeet-tdt-nano"
SPEECH = REPOSITORY / "tests" / "audio" / "dialogues"
WINDOW_S = 30
BATCHES = {"ours": (4, 8, 16), "faster-whisper": (4, 8, 16), "onnx-asr": (4, 8, 16), "transformers": (4, 8), "parakeet": (1, 4, 8)}
WHISPER_ENGINES = ("ours", "faster-whisper", "onnx-asr", "transformers")
# What an engine's folder is called, and how an engine is named in the results.
FOLDERS = {"ours": "onnx-int8", "faster-whisper": "ct2-int8", "onnx-asr": "onnx-int8", "transformers": "hf", "parakeet": ""}
NAMES = {"faster-whisper": "faster_whisper", "onnx-asr": "onnx_asr", "transformers": "reference", "parakeet": "onnx_asr"}
PARAKEET_GOAL = 1.3
GOALS = {"faster_whisper": 1.2, "onnx_asr": 1.1, "reference": 3.0}


def run(command, **options):
    print("+", " ".join(map(str, command)), flush=True)
    subprocess.run(list(map(str, command)), check=True, **options)


def prepare_environment(python, requirements, what):
    """An environment with its requirements; false when they cannot be had, which skips `what`."""
    folder = python.parents[1]
    mark = folder / "installed.txt"
    wanted = (HERE / requirements).read_text()
    if mark.is_file() and mark.read_text() == wanted:
        return True
    try:
        run([sys.executable, "-m", "venv", folder])
        run([python, "-m", "pip", "install", "--quiet", "-r", HERE / requirements])
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"SKIPPED {what}: what it needs cannot be installed here ({error}).")
        return False
    mark.write_text(wanted)
    return True


def prepare_parakeet():
    """The folder of the Parakeet of full size, made once; None when it cannot be made."""
    folder = CACHE / "parakeet-0.6b"
    if not (folder / "config.json").is_file():
        if not prepare_environment(NEMO, "requirements-nemo.txt", "parakeet-0.6b"):
            return None
        try:
            run([NEMO, HERE / "random_parakeet.py", folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except subprocess.CalledProcessError as error:
            print(f"SKIPPED parakeet-0.6b: it cannot be made here ({error}).")
            return None
    return folder


def prepare_model(name):
    """The folder of a model with one folder for each engine, made once; None when it cannot be made."""
    folder = CACHE / f"whisper-{name}"
    if not (folder / "made").is_file():
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        script = [HERE / "nano_peers.py", NANO, folder] if name == "nano" else [
            HERE / "scripted_whisper.py", "--size", name, "--out", folder]
        try:
            run([PYTHON, *script], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except subprocess.CalledProcessError as error:
            print(f"SKIPPED model {name}: it cannot be made here ({error}).")
            return None
        (folder / "made").write_text("")
    return folder


def make_audio(seconds):
    """Bundled conversations, one after the other."""
    path = CACHE / f"speech-{seconds}s.wav"
    if not path.is_file():
        frames, wanted = [], seconds * 16000 * 2
        sources = sorted(SPEECH.glob("dlg0?.wav"))
        while sum(map(len, frames)) < wanted:
            for source in sources:
                with wave.open(str(source)) as file:
                    if (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2):
                        frames.append(file.readframes(file.getnframes()))
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            file.writeframes(b"".join(frames)[:wanted])
    return path


class Engine:
    """A process that transcribes the file once for every line it is sent."""

    def __init__(self, name, model, audio, threads, batch):
        self.name, self.batch = name, batch
        folder = model if (model / "vocab.txt").is_file() or model == NANO else model / FOLDERS[name]
        if name == "ours":
            command = [OURS, folder, audio, "int8", threads, batch]
        else:
            command = [PYTHON, HERE / "worker.py", name, folder, audio, threads, batch]
        if threads == 1:
            # The last core: the first one serves most interrupts.
            command = ["taskset", "-c", (os.cpu_count() or 1) - 1, *command]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        self.errors = CACHE / f"asr-{name}.log"
        self.process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
            stderr=self.errors.open("w"))

    def transcribe(self):
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


def seconds_of(result, threads):
    return result["cpu_s"] if threads == 1 else result["wall_s"]


def best_engine(name, model, audio, threads):
    """The engine at its fastest batch size, warmed up; None when it does not run."""
    best = None
    for batch in BATCHES[name]:
        engine = Engine(name, model, audio, threads, batch)
        passes = [engine.transcribe() for _ in range(3)]
        if None in passes:
            engine.stop()
            last = engine.errors.read_text().strip().splitlines()[-1:] or ["no message"]
            print(f"SKIPPED {name} with batches of {batch}: {last[0]}")
            continue
        took = min(seconds_of(result, threads) for result in passes[1:])
        if best is None or took < best[0]:
            if best:
                best[1].stop()
            best = (took, engine)
        else:
            engine.stop()
    return best[1] if best else None


def words(text):
    return "".join(c if c.isalnum() or c.isspace() else " " for c in text.lower()).split()


def similarity(text, wanted):
    """Share of words that are the same, by longest matching blocks."""
    import difflib
    return difflib.SequenceMatcher(None, words(text), words(wanted), autojunk=False).ratio()


def measure(name, options, peers):
    """Rows and printed lines for one model."""
    wanted = WHISPER_ENGINES
    if name.startswith("parakeet"):
        wanted = ("ours", "parakeet")
        if name == "parakeet":
            model = PARAKEET
        elif name == "parakeet-0.6b":
            model = prepare_parakeet()
        else:
            model = Path(name.partition("=")[2])
            name = f"parakeet_{model.name}"
    else:
        # Without the peers' environment no model can be made; the bundled one needs none.
        model = prepare_model(name) if peers else NANO if name == "nano" else None
    if not model:
        return []
    audio = make_audio(options.seconds)
    engines = [best_engine(engine, model, audio, options.threads) for engine in wanted if engine == "ours" or peers]
    engines = [engine for engine in engines if engine]
    passes = {engine.name: [] for engine in engines}
    for _ in range(options.rounds):
        for engine in engines:
            passes[engine.name].append(engine.transcribe())
    for engine in engines:
        engine.stop()
    if "ours" not in passes:
        raise SystemExit(f"our own engine does not run: see {CACHE / 'asr-ours.log'}")

    windows = -(-options.seconds // WINDOW_S)
    expected = (model / "expect.txt").read_text() if (model / "expect.txt").is_file() else None
    reference = passes.get("transformers") or passes.get("parakeet") or passes["ours"]
    wanted = " ".join([expected.strip()] * windows) if expected else reference[0]["text"]
    figures, rows = {}, []
    print(f"\n{name}: {options.seconds} s of audio, {options.threads} thread(s), median of {options.rounds}")
    print(f"  {'engine':16} {'batch':>5} {'cpu s':>8} {'wall s':>8} {'x real time':>12} {'peak MiB':>9}  text")
    for engine in engines:
        results = passes[engine.name]
        cpu = statistics.median(result["cpu_s"] for result in results)
        wall = statistics.median(result["wall_s"] for result in results)
        figures[engine.name] = options.seconds / statistics.median(seconds_of(result, options.threads) for result in results)
        text = results[-1]["text"]
        if expected:
            equal = "as scripted" if words(text) == words(wanted) else f"{similarity(text, wanted):.1%} as scripted"
        else:
            equal = f"{similarity(text, wanted):.1%} as the reference's"
        print(f"  {engine.name:16} {engine.batch:5} {cpu:8.2f} {wall:8.2f} {figures[engine.name]:12.1f} {results[-1]['peak_rss_mib']:9}  {equal}")
    for peer, figure in figures.items():
        if peer != "ours":
            rows.append(row(f"{name}_vs_{NAMES[peer]}", figures["ours"], figure, "audio seconds per second"))
    return rows


def memory(name, model, options):
    """Peak memory on two and on twenty minutes, of a bundled model at its default batch size."""
    peaks = []
    # The first load rewrites the model's graphs, which takes memory of its own: it is not counted.
    for seconds in (30, 120, 1200):
        engine = Engine("ours", model, make_audio(seconds), options.threads, 8)
        result = engine.transcribe()
        engine.stop()
        if not result:
            raise SystemExit(f"our own engine does not run: see {engine.errors}")
        peaks.append(result["peak_rss_mib"])
    return [row(f"{name}memory_20min_vs_2min", peaks[2], peaks[1], "MiB at the peak (lower is better, 1 is flat)")]


def row(name, ours, reference, unit):
    return {"name": name, "ours": round(ours, 2), "reference": round(reference, 2), "ratio": round(ours / reference, 3), "unit": unit}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--models", default="tiny,base,nano,parakeet", help="which to measure, separated by commas")
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=int, default=240, help="length of the audio, whole windows of 30 s")
    options = arguments.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    OUT.mkdir(parents=True, exist_ok=True)
    run([os.environ.get("CARGO", "cargo"), "build", "--release", "--locked", "-p", "dalston-engines", "--example", "asr_bench"], cwd=REPOSITORY)
    peers = prepare_environment(PYTHON, "requirements.txt", "every peer")
    rows = []
    for name in options.models.split(","):
        rows += measure(name, options, peers)
    rows += memory("", NANO, options)
    if "parakeet" in options.models.split(","):
        rows += memory("parakeet_", PARAKEET, options)
    (OUT / "asr.json").write_text(json.dumps(rows, indent=2) + "\n")
    print(f"\n{'':32} {'ours':>9} {'other':>9} {'ratio':>7}  goal")
    for result in rows:
        goal = next((goal for peer, goal in GOALS.items() if result["name"].endswith(f"_vs_{peer}")), None)
        goal = PARAKEET_GOAL if goal and result["name"].startswith("parakeet") else goal
        print(f"{result['name']:32} {result['ours']:9.1f} {result['reference']:9.1f} {result['ratio']:7.2f}  {goal or 'flat: 1'}")
    print(f"written to {(OUT / 'asr.json').relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
