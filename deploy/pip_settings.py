"""Copy what pip needs to reach its index from this machine below a folder: its settings, and the files they name.

    python3 deploy/pip_settings.py FOLDER

deploy/image.sh adds the folder to its own base image only. The settings may hold a password.
"""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


def settings() -> dict[str, dict[str, str]]:
    """Return the sections of this machine's pip configuration, in which the environment wins."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    sections: dict[str, dict[str, str]] = {"global": {"cert": str(BUNDLE)} if BUNDLE.exists() else {}}
    for line in sorted(listed.splitlines(), key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        sections.setdefault("global" if section == ":env:" else section, {})[key] = str(ast.literal_eval(value))
    return sections


def main(root: Path) -> None:
    """Write etc/pip.conf below a folder, and copies of the files that it names where it names them."""
    sections = settings()
    words = {word for values in sections.values() for value in values.values() for word in value.split()}
    for path in sorted(Path(word) for word in {*words, str(BUNDLE)} if word.startswith("/")):
        copy = root / path.relative_to("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, copy, dirs_exist_ok=True)
        elif path.exists():
            shutil.copy(path, copy)
    (root / "etc").mkdir(exist_ok=True)
    lines = []
    for section, values in sections.items():
        # A value of several lines goes on where a line is indented.
        lines += [f"[{section}]", *(f"{key} = {value}".replace("\n", "\n  ") for key, value in values.items())]
    (root / "etc/pip.conf").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
