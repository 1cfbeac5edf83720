PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
CONSTRAINTS := -c constraints.txt

.PHONY: quickstart test test-slow lint peers install

# A stamp, so that a second call installs nothing and starts at once.
install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e '.[dev]'
	touch $@

quickstart: install
	$(BIN)/python -m launch.pipeline --config=configs/quickstart.py --workdir=runs/quickstart

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

test: install lint
	$(BIN)/pytest -n 2 -m 'not slow'

test-slow: install
	$(BIN)/pytest -m slow

# PyTorch and sentence-transformers, apart from ours: only to check that they load what we export.
peers: $(PEERS)/.installed

$(PEERS)/.installed: constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check sentence-transformers==6.2.0 $(shell grep '^transformers==' constraints.txt)
	touch $@
