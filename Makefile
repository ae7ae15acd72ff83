# make ablation   the demo: a network that plain training cannot start, with and without the MI term
# make check      lint, types and the quick tests, without the heavy extras
# make test       lint, types and all tests
# make golden     writes the golden losses of tests/golden again, after a change that was meant to move them
# make docs       the documentation site, in site/
# All set up .venv by themselves, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
READY := $(VENV)/.ready
CHECKERS := $(VENV)/.ready-check
TOOLS := $(VENV)/.ready-tools

.PHONY: ablation check test golden lint docs build clean

ablation: $(READY)
	$(BIN)/python train.py

LINT = $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
QUICK = tests/golden tests/estimators tests/layers tests/ablation/test_rooms.py \
	tests/test_term.py tests/test_wrapper.py tests/test_measure.py tests/test_finite.py

check: $(CHECKERS)
	$(LINT)
	$(BIN)/python -m pytest -n 2 --dist worksteal -q -m "not slow and not browser" $(QUICK)

test: lint
	$(BIN)/python -m pytest -n 3 --dist loadscope --no-loadscope-reorder

golden: $(CHECKERS)
	$(BIN)/python -m tests.golden

lint: $(TOOLS)
	$(LINT)

docs: $(TOOLS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

build: $(TOOLS)
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) build dist out site *.egg-info

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "mireg needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "setting up $(VENV): downloads PyTorch, a few minutes the first time"
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	@touch $(READY)

$(CHECKERS): $(READY)
	$(PIP) -e '.[test]'
	@touch $(CHECKERS)

$(TOOLS): $(READY)
	@echo "adding the tools of development to $(VENV)"
	$(PIP) -e '.[dev,docs]'
	@touch $(CHECKERS) $(TOOLS)
