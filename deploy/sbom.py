"""Write the software bill of materials of the server: CycloneDX 1.6, from the pins in requirements/server.txt.

    python3 deploy/sbom.py dist/sbom.cdx.json

Nothing is looked up: the same tree gives the same bytes. SOURCE_DATE_EPOCH (seconds), if set, is its time. The SHA-256
hashes of a component are those that pip accepts for it: one for each file of that version.
"""

import json
import os
import re
import sys
import tomllib
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(?:\[[^]]*])?==(?P<version>[^\s;\\]+)(?: ; (?P<marker>[^\\]+))?")
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def bill(project: dict[str, Any], pins: str) -> dict[str, Any]:
    """Return the bill of a project ([project] of pyproject.toml) that installs these pins."""
    name, version = project["name"], project["version"]
    components = [component(block) for block in re.split(r"\n(?=\S)", pins.strip()) if PIN.match(block)]
    root = {
        "type": "application",
        "bom-ref": purl(name, version),
        "name": name,
        "version": version,
        "purl": purl(name, version),
        "description": project["description"],
        "licenses": [{"expression": project["license"]}],
    }
    metadata: dict[str, Any] = {"component": root}
    if seconds := os.environ.get("SOURCE_DATE_EPOCH"):
        metadata["timestamp"] = datetime.fromtimestamp(int(seconds), UTC).isoformat()
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, root["purl"] + pins).urn,
        "version": 1,
        "metadata": metadata,
        "components": components,
        "dependencies": [{"ref": root["bom-ref"], "dependsOn": sorted(part["bom-ref"] for part in components)}],
    }


def component(block: str) -> dict[str, Any]:
    """Return the component of one pin: its line and the hashes below it."""
    pin = PIN.match(block)
    assert pin
    name, version = pin["name"].lower(), pin["version"]
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl(name, version),
        "name": name,
        "version": version,
        "purl": purl(name, version),
        "hashes": [{"alg": "SHA-256", "content": digest} for digest in sorted(HASH.findall(block))],
    }
    if pin["marker"]:
        found["properties"] = [{"name": "python:marker", "value": pin["marker"].strip()}]
    return found


def purl(name: str, version: str) -> str:
    """Return the package URL of a Python distribution."""
    return f"pkg:pypi/{name}@{version}"


def main(output: str) -> None:
    """Write the bill to a file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = (ROOT / "requirements" / "server.txt").read_text()
    Path(output).write_text(json.dumps(bill(project, pins), indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
