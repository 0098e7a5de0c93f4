"""Generates the stubs beside keyvault.proto, or under the folder given as the only argument.

The generator is pinned in pyproject.toml: stubs refuse a runtime older than the generator they came from, so a
newer generator would silently raise every client's floor. `tests/protos/test_contract.py` regenerates and compares.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent
PROTO = "keyvault/v1/keyvault.proto"


def generate(out: Path) -> None:
    """Runs protoc with the Python, gRPC and mypy plugins of this interpreter's environment."""
    plugins = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    flags = [f"--python_out={out}", f"--grpc_python_out={out}"]
    flags += [f"--mypy_out=quiet:{out}", f"--mypy_grpc_out=quiet,only_async:{out}"]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}", *flags, PROTO]
    subprocess.run(command, check=True, env=os.environ | {"PATH": plugins})


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
