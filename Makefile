# One virtual environment for everything; it is made when it is missing or when the dependencies change.
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

# numba, which scanpy uses, gives torch as many threads as it has itself; two test processes then wait for one another
ONE_THREAD := OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1

.PHONY: demo test test-slow lint format types docs wheels lowest extras clean

demo: $(STAMP)
	$(BIN)/python training_scripts/demo.py

test: $(STAMP) lint
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n 2 --dist worksteal

# further extras to install first, such as EXTRAS="ray spark": without them their tests are skipped
EXTRAS ?=
test-slow: $(STAMP)
	$(foreach extra,$(EXTRAS),$(INSTALL) --editable ".[$(extra)]" &&) true
	$(ONE_THREAD) $(BIN)/python -m pytest -q -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

docs: $(STAMP)
	$(INSTALL) --editable ".[docs]"
	$(BIN)/python -m sphinx -W --keep-going docs docs/_build

# builds wheel and sdist, and tries them in new environments of these Pythons
PYTHONS ?= $(PYTHON)
wheels: $(STAMP)
	$(BIN)/python -m tests.wheels --python $(PYTHONS)

# the lowest versions of setup.cfg
lowest: $(STAMP)
	$(BIN)/python -m tests.wheels --python $(PYTHON) --lowest

# each extra alone
extras: $(STAMP)
	$(BIN)/python -m tests.wheels --python $(PYTHON) --extras all-of-them

types: $(STAMP)
	$(INSTALL) mypy
	$(BIN)/python -m mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(STAMP): setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable ".[dev]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) demo_output
