"""Writes kve1.json and wrapped_key.json: python -m tests.vectors.generate

Deterministic: keys and salts are spelled out or come of SHA-512. Nothing of `keyvault` takes part, so that the files
can find its mistakes; `tests/api/test_envelope.py` compares the committed files with what this makes.
"""

from tests.vectors import kve1, wrapped_key
from tests.vectors.layout import HERE


def files() -> dict[str, str]:
    """Every generated file: name and content."""
    return {"kve1.json": kve1.make(), "wrapped_key.json": wrapped_key.make()}


if __name__ == "__main__":
    for name, text in files().items():
        (HERE / name).write_text(text)
