# Shorthands; each line is what CI runs too. `python3 dev.py setup` first.
BIN := .venv/bin

.PHONY: check test benchmark image prove

check:
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code

test:
	$(BIN)/python -m pytest

benchmark:
	$(BIN)/python benchmarks/run.py

image:
	PATH="$(CURDIR)/$(BIN):$$PATH" deploy/image.sh

# The full figures of docs/reliability.md: some hours. `make prove FIGURES="crash soak"` makes some of them.
prove:
	$(BIN)/python -m tests.prove $(FIGURES)
