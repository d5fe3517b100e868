#!/usr/bin/env python3
"""Checks compose.yaml without a container engine: names that must agree do, and every setting given to Dalston exists.

Needs PyYAML, which `scripts/setup.py --test` puts into .venv.
"""

import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent


def known_settings():
    """The names in the program's own table of settings."""
    table = (ROOT / "cli" / "src" / "config" / "settings.rs").read_text()
    return set(re.findall(r'^\s*(?:setting\(|secret\()?\s*"([A-Z][A-Z0-9_]+)",', table, re.MULTILINE))


def faults(compose):
    services, volumes = compose["services"], compose["volumes"]
    settings = known_settings()
    for name, service in services.items():
        if "image" not in service:
            yield f"{name} has no image"
        for needed, rule in service.get("depends_on", {}).items():
            if needed not in services:
                yield f"{name} depends on {needed}, which is no service"
            elif rule["condition"] == "service_healthy" and "healthcheck" not in services[needed]:
                yield f"{name} waits for {needed} to be healthy, but that has no healthcheck"
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if not source.startswith((".", "/")) and source not in volumes:
                yield f"{name} mounts {source}, which is no volume"
        if "build" in service:
            dockerfile = ROOT / service["build"]["dockerfile"]
            if not dockerfile.is_file():
                yield f"{name} is built from {dockerfile}, which does not exist"
            arguments = set(re.findall(r"^ARG (\w+)", dockerfile.read_text(), re.MULTILINE))
            for argument in service["build"].get("args", {}):
                if argument not in arguments:
                    yield f"{name} passes build argument {argument}, which the Dockerfile does not take"
            for setting in service["environment"]:
                if setting not in settings:
                    yield f"{name} sets {setting}, which is no setting"
    if services["worker"].get("container_name") or services["worker"].get("ports"):
        yield "worker has a fixed name or port, so --scale cannot work"
    default = {name for name, service in services.items() if not service.get("profiles")}
    if default != {"database", "api", "worker"}:
        yield f"without a profile these start: {sorted(default)}"


def main():
    found = list(faults(yaml.safe_load((ROOT / "compose.yaml").read_text())))
    for fault in found:
        print(f"compose.yaml: {fault}", file=sys.stderr)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
