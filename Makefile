# Shorthands; CI runs the same lines. `python3 dev.py setup` first.
BIN := .venv/bin

.PHONY: help check unit test race benchmark pythons release image prove mutants

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.* ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

check: ## lint, format, layers, types and contract
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	.ci/breaking

unit: ## the fast tests: no process, no network but loopback
	python3 dev.py test --unit

test: ## all tests
	python3 dev.py test

race: ## the tests of the Go library with the race detector, some minutes; CI leaves the behaviour suite out
	cd sdk/go && go test -race -count=1 ./... && cd kve1 && go test -race -count=1 ./...

benchmark: ## what calls cost, some 12 minutes: writes docs/performance.md; SECTIONS="calls aws" measures these alone
	$(BIN)/python -m benchmarks --write $(SECTIONS)

pythons: ## the unit tier on each Python that we claim, against the wheel
	.ci/pythons

release: ## the files of a release, into dist/: a rehearsal without a version
	.ci/release

image: ## build the image and run it (needs root)
	PATH="$(CURDIR)/$(BIN):$$PATH" deploy/image.sh

prove: ## the full figures of docs/reliability.md, some hours; FIGURES="crash soak" makes these alone
	$(BIN)/python -m tests.prove $(FIGURES)

mutants: ## change the core in 150 places, one at a time, and list what no near test notices
	$(BIN)/python -m tests.mutants $(MUTANTS)
