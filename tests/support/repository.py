"""Where the repository is, for tests that hold its pages and files against the code."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
