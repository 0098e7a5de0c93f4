"""Generate the Python stubs of keyvault.proto into protos/python, or below the folder given as the only argument.

The stubs live in the import package `keyvault_api`, because `keyvault` belongs to another distribution. The file
descriptor keeps the name keyvault/v1/keyvault.proto, as every other generator registers it: protobuf's pool refuses two
files that define the same symbols under different names, so a program could not load its own stubs next to ours. So
protoc runs as usual, and the three references to the module are rewritten afterwards.

The generator is pinned in pyproject.toml: stubs refuse a runtime older than the generator they came from, so a
newer generator would silently raise every client's floor. `tests/api/test_contract.py` regenerates and compares.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent
PROTO = "keyvault/v1/keyvault.proto"
REFERENCES = {
    "keyvault_pb2.py": ("'keyvault.v1.keyvault_pb2'", "'keyvault_api.v1.keyvault_pb2'"),
    "keyvault_pb2_grpc.py": ("from keyvault.v1 import", "from keyvault_api.v1 import"),
    "keyvault_pb2_grpc.pyi": ("from keyvault.v1 import", "from keyvault_api.v1 import"),
}
"""In each generated file, the one reference to the module and what replaces it."""


def generate(out: Path) -> None:
    """Write the stubs to keyvault_api/v1 below `out`."""
    target = out / "keyvault_api" / "v1"
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        run_protoc(Path(temporary))
        for path in (Path(temporary) / PROTO).parent.iterdir():
            (target / path.name).write_text(rewrite(path))


def run_protoc(out: Path) -> None:
    """Run protoc with the Python, gRPC and mypy plugins of this interpreter's environment."""
    plugins = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    flags = [f"--python_out={out}", f"--grpc_python_out={out}"]
    flags += [f"--mypy_out=quiet:{out}", f"--mypy_grpc_out=quiet,only_async:{out}"]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}", *flags, PROTO]
    subprocess.run(command, check=True, env=os.environ | {"PATH": plugins})


def rewrite(path: Path) -> str:
    """Return a generated file whose reference to the module names `keyvault_api`."""
    text = path.read_text()
    if path.name in REFERENCES:
        old, new = REFERENCES[path.name]
        assert text.count(old) == 1, f"{path.name} has {text.count(old)} references {old}"
        text = text.replace(old, new)
    return text


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "python")
