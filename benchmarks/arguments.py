"""The arguments of a benchmark's command: `--help` shows the module's docstring as it stands there."""

import argparse


def parser_of(module: str, docstring: str | None) -> argparse.ArgumentParser:
    """Return a parser for `python -m benchmarks.MODULE`."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{module}",
        description=docstring,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
