# Everything a fresh machine needs: Python 3.11 or newer with venv, make, and the package registry.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One more than most machines of a CI have cores: many tests wait for processes and servers.
TEST_WORKERS ?= 3

.PHONY: help demo test check bench bench-read bench-memory bench-diff bench-send soak clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed  ## set up, then run the main job against an embedded S3 + SQS server
	$(BIN)/inventory-enqueue demo

test: check build/ministack/.installed  ## set up, then lint, type-check and test
	$(BIN)/pytest -n $(TEST_WORKERS) --dist worksteal

# A server that the tests run against. It pins its own botocore, so it has an environment of its own.
build/ministack/.installed: Makefile
	$(PYTHON) -m venv build/ministack
	build/ministack/bin/python -m pip install --quiet --disable-pip-version-check 'ministack==1.5.33'
	touch $@

check: $(VENV)/.installed  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: bench-read bench-memory bench-diff bench-send  ## all benchmarks, as ratios against peers in the same run: an hour

bench-read: $(VENV)/.installed  ## decoding and fingerprinting, against polars and pyarrow; memory; overlap of downloads
	$(BIN)/python scripts/bench/reading.py

bench-memory: $(VENV)/.installed  ## peak memory on the hardest files, against the budget
	$(BIN)/python scripts/bench/memory.py

bench-diff: $(VENV)/.installed  ## the diff of 20 M objects, against polars, duckdb and Spark (needs Java)
	$(BIN)/python scripts/bench/diffing.py

bench-send: $(VENV)/.installed  ## the sender, against boto3, aiobotocore and the Node SDK; faults; memory (needs cc, openssl, npm)
	$(BIN)/python scripts/bench/sending.py
	$(BIN)/python scripts/bench/sending.py --part faults --our-messages 5000000
	$(BIN)/python scripts/bench/sending.py --part memory --our-messages 2500000

soak: $(VENV)/.installed  ## the random tests of formats and chains of deliveries, and 1,000 kills: two hours
	SOAK=1 $(BIN)/pytest -n $(TEST_WORKERS) tests/test_formats.py tests/test_footers.py tests/test_chains.py
	SOAK=1 $(BIN)/pytest -n $(TEST_WORKERS) -rP tests/reliability/test_kill_loop.py

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
