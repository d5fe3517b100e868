"""Runs the built product on an empty data folder for the scripts beside this one. Standard library only."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BINARY = ROOT / "target" / "release" / "dalston"
SAMPLE = ROOT / "tests" / "audio" / "utterances" / "dev-00005.wav"
RECORDING = ROOT / "tests" / "audio" / "dialogues" / "dlg01.wav"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def expected_text(wav):
    """What is said in a bundled utterance."""
    with open(ROOT / "tests" / "audio" / "utterances.jsonl") as lines:
        for line in map(json.loads, lines):
            if Path(line["path"]).name == wav.name:
                return line["text"]
    raise LookupError(wav)


class Product:
    """`dalston serve` in a folder of its own, on a free port, its output in a file."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="dalston-")
        self.data = Path(self.folder.name) / "data"
        self.log = Path(self.folder.name) / "output"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        keep = {name: value for name, value in os.environ.items() if not name.startswith("DALSTON_") and name != "DATABASE_URL"}
        self.environment = {**keep, "DALSTON_DATA_DIR": str(self.data), "DALSTON_PORT": str(self.port), "DALSTON_SERVER": self.url}
        self.process = None
        self.start_seconds = None

    def __enter__(self):
        # A request to end is an exit, so that what was started here is stopped.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        return self

    def start(self, command=(str(BINARY), "serve"), timeout=120):
        """Starts and returns when the API answers and the start is announced."""
        announced = self.announcements()
        started = time.monotonic()
        self.start_seconds = None
        with open(self.log, "ab") as log:
            # A group of its own, so that a signal to the command's group is ours to send.
            self.process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=log, stderr=log, start_new_session=True)
        while self.start_seconds is None or self.announcements() == announced:
            if self.start_seconds is None and self.is_healthy():
                self.start_seconds = time.monotonic() - started
            if self.process.poll() is not None:
                raise SystemExit(f"dalston serve ended with {self.process.returncode}:\n{self.output()}")
            if time.monotonic() - started > timeout:
                raise SystemExit(f"not ready within {timeout} s:\n{self.output()}")
            time.sleep(0.02)

    def is_healthy(self):
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def announcements(self):
        return self.output().count("Dalston is ready on") if self.log.exists() else 0

    def output(self):
        return self.log.read_text(errors="replace")

    def admin_key(self):
        """The key that the first start prints."""
        found = re.search(r"\bdk_[A-Za-z0-9_-]{43}\b", self.output())
        if not found:
            raise SystemExit(f"no admin key in the output:\n{self.output()}")
        return found.group(0)

    def processes(self):
        """Every process that works for this product: they all name its data folder, by environment, folder or argument."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                environment = (entry / "environ").read_bytes()
                folder = os.readlink(entry / "cwd")
                arguments = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            name = str(self.data)
            if name.encode() in environment or folder.startswith(name) or name.encode() in arguments:
                found.append((int(entry.name), arguments.replace(b"\0", b" ").decode(errors="replace").strip()))
        return found

    def client(self, *arguments):
        """Runs a client command against this product and returns what it prints."""
        environment = {**self.environment, "DALSTON_API_KEY": self.admin_key()}
        done = subprocess.run([str(BINARY), *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        if done.returncode != 0:
            raise SystemExit(f"dalston {' '.join(arguments)} exited {done.returncode}:\n{done.stdout}{done.stderr}\n{self.output()}")
        return done.stdout

    def stop(self, number=signal.SIGTERM, timeout=60):
        """Asks the product to stop and returns the exit code of the command it was started with."""
        served = [pid for pid, arguments in self.processes() if re.match(r"\S*dalston serve", arguments)]
        if len(served) != 1:
            raise SystemExit(f"expected one dalston serve, found {self.processes()}")
        os.kill(served[0], number)
        return self.process.wait(timeout)

    def __exit__(self, *_):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        # The database dies with the killed process, not at the same instant.
        deadline = time.monotonic() + 15
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.folder.cleanup()
