# make quickstart   install the runtime, write a post, and find it again from another process
# make test         all tests, with coverage of lines and branches
# make faults       kills, power losses, full disks and the like, with one table of what was tried and found
# make check        what CI runs: style, types, tests, faults, quickstart
# make bench        the figures in benchmarks/
# make bench-contention   many processes at the same time, beside the peers, which are installed first; 15 minutes
# make bench-scale   many sessions, large states, long histories, many runs, on SQLite and PostgreSQL; 15 minutes
# make bench-peers   Holdfast beside Phidata, Agno, LangGraph and five others, which are installed first; half an hour
# make soak         the long randomised runs; each fault for HOLDFAST_SOAK_SECONDS=60 at most
# make clean        remove what these targets made
#
# Needs Python 3.11 or newer with pip and venv; another interpreter: make PYTHON=python3.13 test

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
QUICKSTART_DB := build/quickstart.db

# The tools that build the package are pinned too: pip before 25.3 reads the first name for that, later ones the second.
PIP := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip

.PHONY: quickstart test faults check lint bench bench-contention bench-scale bench-peers soak clean

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Holdfast needs Python 3.11 or newer; say which one with: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/runtime.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/development.stamp: $(VENV)/runtime.stamp
	$(PIP) install --quiet --requirement constraints.txt
	@touch $@

quickstart: $(VENV)/runtime.stamp
	@rm -rf $(QUICKSTART_DB)*
	$(BIN)/holdfast quickstart --db $(QUICKSTART_DB)
	$(BIN)/holdfast quickstart --db $(QUICKSTART_DB)

lint: $(VENV)/development.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(VENV)/development.stamp
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --cov --cov-report term -m "not soak"

faults: $(VENV)/development.stamp
	PYTHONPATH=tests $(BIN)/python -m faults

check: lint test faults quickstart

bench: $(VENV)/development.stamp
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/steps.py --quick
	$(BIN)/python benchmarks/contention.py --quick --no-peers

bench-contention: $(VENV)/development.stamp
	$(BIN)/python benchmarks/contention.py --write

bench-scale: $(VENV)/development.stamp
	$(BIN)/python benchmarks/scale.py --write

bench-peers: $(VENV)/development.stamp
	$(BIN)/python benchmarks/comparison.py --write

soak: $(VENV)/development.stamp
	$(BIN)/python -m pytest -m soak
	PYTHONPATH=tests $(BIN)/python -m faults --soak

clean:
	rm -rf $(VENV) build dist .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
