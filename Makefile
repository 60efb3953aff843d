# Two commands on a fresh machine: `make demo` and `make test`. Needs Python 3.11 or later and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
# As many threads as this process may really use (a container's limit counts), unless the caller says otherwise.
THREADS = OMP_NUM_THREADS=$${OMP_NUM_THREADS:-$$($(BIN)/python -c 'from fer_nas_live.machine import usable_cores as n; print(n())')}

.PHONY: demo test lint hashes clean

demo: $(READY)
	$(THREADS) $(BIN)/fer-nas demo

test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# The SHA-256 of every released model into its card, after a model in exports/ was replaced.
hashes: $(READY)
	$(BIN)/python -m fer_nas_live.hashes

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: $(PYTHON) is missing or older than 3.11: install Python 3.11 or later, or name one: make PYTHON=python3.12" >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[search,dev]'
	@touch $(READY)

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
