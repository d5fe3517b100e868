#!/usr/bin/env python3
"""How much faster one long file is with more workers.

    python bench/scaling/run.py [--seconds 10800] [--workers 1,2,4,8,16] [--binary target/release/dalston]

A recording of three hours (the bundled conversations over and over) goes through the product with the engine `sleep`,
which takes a set share of the audio's length and computes nothing: on a few cores computation cannot scale, coordination
can. Each worker runs one task at a time. The file is prepared once; its parts and the merge are then opened again for
every number of workers, and the clock runs from there to the stored transcript. More workers sleep longer per second of
audio, so that every run lasts about as long.

`fan_out_N`: ideal time (sleep in all over N) and measured time, seconds; the ratio is ideal over measured, to reach 0.9 at
16. `fan_out_cost`: time of the parts over that of the whole file as one task, on one worker; to stay under 1.05.
Writes bench/out/scaling.json.
"""
import argparse
import json
import subprocess
import sys
import time
import wave
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "scripts"))
import product as products  # noqa: E402

CACHE = REPOSITORY / "bench" / ".cache"
OUT = REPOSITORY / "bench" / "out"
SPEECH = REPOSITORY / "tests" / "audio" / "dialogues"
# About how long every run lasts, seconds.
RUN_S = 45
DEADLINE_S = 1800


def recording(seconds):
    """A WAV of that length, made once."""
    path = CACHE / f"conversations-{seconds}.wav"
    if path.is_file():
        return path
    CACHE.mkdir(parents=True, exist_ok=True)
    frames = []
    for part in sorted(SPEECH.glob("dlg0?.wav")):
        with wave.open(str(part)) as source:
            frames.append(source.readframes(source.getnframes()))
    left = seconds * 16_000 * 2
    with wave.open(str(path), "wb") as target:
        target.setparams((1, 2, 16_000, 0, "NONE", "not compressed"))
        while left > 0:
            for block in frames:
                target.writeframes(block[:left])
                left -= len(block[:left])
    return path


class Bench:
    """The product with an API, a worker without the engine `sleep`, and as many workers with it as asked for."""

    def __init__(self, product):
        self.product = product
        self.workers = []

    def scale(self, count, factor):
        self.stop()
        environment = {
            **self.product.environment,
            "DALSTON_LOAD_ENGINE_REALTIME_FACTOR": str(factor),
            "DALSTON_WORKER_CONCURRENCY": "1",
        }
        command = [str(products.BINARY), "worker", "--capabilities", "transcribe/sleep", "--no-maintenance"]
        with open(self.product.log, "ab") as log:
            for _ in range(count):
                self.workers.append(subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log))
        offering = "select count(*) from worker_capabilities c join capabilities k on k.id = c.capability_id where k.model = 'sleep'"
        self.wait(lambda: int(self.sql(offering)) == count, f"{count} workers to register")

    def stop(self):
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            worker.wait(60)
        self.workers = []

    def sql(self, statement):
        command = [str(products.BINARY), "psql", "--quiet", "-X", "-tA", "-c", statement]
        done = subprocess.run(command, cwd=REPOSITORY, env=self.product.environment, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise SystemExit(f"psql: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def wait(self, condition, what):
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            if time.monotonic() > deadline:
                raise SystemExit(f"waited too long for {what}\n{self.product.output()}")
            time.sleep(0.5)

    def submit(self, path, *options):
        """Submits a file and returns its job once it is done."""
        environment = {**self.product.environment, "DALSTON_API_KEY": self.product.admin_key()}
        command = [str(products.BINARY), "transcribe", str(path), "--model", "sleep", "--quiet", "--json", *options]
        subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, stdout=subprocess.DEVNULL, timeout=DEADLINE_S)
        return self.sql("select id from jobs order by created_at desc limit 1")

    def seconds(self, job):
        """From the first part's turn to the end of the job, by the database's clock."""
        return float(self.sql(
            "select extract(epoch from j.completed_at - (select min(t.ready_at) from tasks t where t.job_id = j.id"
            f" and t.name like 'transcribe%')) from jobs j where j.id = '{job}'"))

    def again(self, job):
        """Runs the parts and the merge of a finished job once more and returns how long they took."""
        self.sql(f"""
            begin;
            select from jobs where id = '{job}' for no key update;
            select pg_notify('dalston_tasks', array_to_string(reopen_tasks('{job}', array(
                select id from tasks where job_id = '{job}' and (name like 'transcribe%' or name = 'merge')), dalston_now()), ','));
            commit""")
        self.wait(lambda: self.sql(f"select status from jobs where id = '{job}'") != "running", "the job")
        return self.seconds(job)


def row(name, ours, reference, ratio, unit):
    return {"name": name, "ours": round(ours, 3), "reference": round(reference, 3), "ratio": round(ratio, 3), "unit": unit}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=10_800)
    parser.add_argument("--workers", default="1,2,4,8,16")
    parser.add_argument("--binary", type=Path, default=products.BINARY)
    arguments = parser.parse_args()
    products.BINARY = arguments.binary.resolve()
    counts = [int(count) for count in arguments.workers.split(",")]
    path = recording(arguments.seconds)
    rows = []
    with products.Product() as product:
        # Enough for preparing a file that is mostly speech on a busy machine.
        product.start([str(products.BINARY), "serve"])
        bench = Bench(product)
        try:
            factor = RUN_S / arguments.seconds
            bench.scale(1, factor)
            parts = bench.submit(path)
            whole = bench.submit(path, "--chunk-seconds", "0")
            one, all_in_one = bench.again(parts), bench.again(whole)
            n_parts = bench.sql(f"select count(*) from tasks where job_id = '{parts}' and name like 'transcribe%'")
            print(f"{arguments.seconds} s of audio in {n_parts} parts: {one:.2f} s, as one task {all_in_one:.2f} s, on one worker")
            rows.append(row("fan_out_cost", one, all_in_one, one / all_in_one, "s"))
            for count in counts:
                factor = RUN_S * count / arguments.seconds
                bench.scale(count, factor)
                measured = bench.again(parts)
                ideal = arguments.seconds * factor / count
                rows.append(row(f"fan_out_{count}", measured, ideal, ideal / measured, "s"))
                print(f"{count:3} workers: {measured:7.2f} s, ideal {ideal:7.2f} s, {ideal / measured:.3f} of ideal", flush=True)
        finally:
            bench.stop()
            product.stop()
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "scaling.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
