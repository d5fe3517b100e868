#!/usr/bin/env python3
"""Checks the syntax of every tracked shell and Python script, and the limits the house sets itself on source files."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# A longer file holds a second story. What others wrote is kept as they wrote it.
LINE_LIMIT = 700
VENDORED = ROOT / "sql/vendor"


def tracked():
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


def shebang(path):
    with open(path, "rb") as file:
        return file.readline(100) if file.read(2) == b"#!" else b""


def faults(path):
    """What is wrong with one file, as sentences."""
    first = shebang(path)
    if path.suffix == ".py" or b"python" in first:
        try:
            ast.parse(path.read_text(), filename=str(path), feature_version=(3, 9))
        except SyntaxError as error:
            yield f"line {error.lineno}: {error.msg}"
    elif path.suffix == ".sh" or first.rstrip().endswith((b"sh", b"bash")):
        done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
        if done.returncode != 0:
            yield done.stderr.strip()
    if path.suffix in (".rs", ".py", ".sql", ".sh") and VENDORED not in path.parents:
        lines = path.read_text().count("\n")
        if lines > LINE_LIMIT:
            yield f"{lines} lines, more than {LINE_LIMIT}: split it"


def main():
    found = [f"{path.relative_to(ROOT)}: {fault}" for path in tracked() for fault in faults(path)]
    for line in found:
        print(line, file=sys.stderr)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
