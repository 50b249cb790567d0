# make train   install into .venv and train ResNet-20 for about five minutes
# make test    install what tests need, and run them
# make check   lint, format and types: what every change has to pass besides
# make docs    build the site, docs/_build/index.html
# make bench   time a training step here and in PyTorch

VENV   ?= .venv
PYTHON ?= python3.11
BIN    := $(VENV)/bin
TRAIN  ?= --epochs 3

.PHONY: train test check docs bench clean

train: $(VENV)/.installed
	$(BIN)/tinyres train $(TRAIN)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-dev
	$(BIN)/sphinx-build -W --keep-going docs docs/_build

bench: $(VENV)/.installed-dev
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/python benchmarks/train_step.py

$(VENV)/bin/python:
	command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed; or say: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install --quiet --editable '.[plot]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) docs/_build .mypy_cache .ruff_cache .pytest_cache
