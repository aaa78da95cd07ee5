# make quickstart   everything from nothing to the first figures, about 10 minutes on two cores
# make test         all tests, in an environment made here
# make check        what is quick, for daily work
# make format       let ruff put the code into shape
# make environment  .venv with everything the tests need
# make help         this list
#
# make PYTHON=python3.12 VENV=folder ...   with another Python, in another folder

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUNS := $(VENV)/.installed
TESTS := $(VENV)/.installed-dev
SUITE := suites/quickstart.yaml
# Tests use one thread each; those of a file share what they set up.
TWO := -n 2 --dist loadfile

.PHONY: help quickstart test check format environment

help:
	@sed -n 's/^# make/make/p' Makefile

quickstart: $(RUNS)
	@.ci/system_packages.sh render
	@echo "==> Running $(SUITE)"
	$(BIN)/python -m suites.run $(SUITE)
	@echo "==> Drawing its figures"
	$(BIN)/python analysis/make_figures.py $(SUITE)

test: $(TESTS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(TWO)

check: $(TESTS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest $(TWO) -m "not slow"

format: $(TESTS)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

environment: $(TESTS)

# Stamps: newer than pyproject.toml and constraints.txt once these are installed.
$(RUNS): pyproject.toml constraints.txt
	@.ci/system_packages.sh base
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; \
	    sys.exit(f"error: Python 3.11 or later is needed, not {v}; try make PYTHON=python3.11" \
	    if sys.version_info < (3, 11) else 0)'
	@echo "==> Making $(VENV) and installing into it: some minutes and 2 GB (PyTorch)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(TESTS): $(RUNS)
	@echo "==> Installing what the tests need"
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@
