# make train   install into .venv and train ResNet-20 for one to six minutes
# make test    install what tests need, and run them
# make check   make lint (lint, format, types) and make docs, without a warning: what every change has to pass besides
# make widths  the tests of kernels at each lesser instruction set that this processor has
# make nightly the tests with 2,000 examples of each property, and others each time
# make docs    build the site, docs/_build/index.html
# make bench   time a training step here and in PyTorch
# make parity  install PyTorch as well, and compare with it; look through the site, if it is built
# make package build what is released, dist/, and check it; make installed tries it with each Python and the oldest packages
# make compare time a training step here and in the last release, AGAINST=COMMIT for another version
# make tagged  TAG=v1.2.3: whether this is the version, with its entry in CHANGELOG.md

VENV   ?= .venv
PYTHON ?= python3.11 python3.12 python3.13 python3.14 python3 python
ifeq ($(OS),Windows_NT)
BIN    := $(VENV)/Scripts
EXE    := .exe
else
BIN    := $(VENV)/bin
endif
PIP    := $(BIN)/pip$(EXE)
TRAIN  ?= --epochs 3
# two workers, each on one thread; a file's tests share what they have made, and files come in the order of tests/conftest.py
TEST   ?= -n 2 --dist loadfile --no-loadscope-reorder

# what kernels of another width may change
WIDTHS ?= $(patsubst %,tests/test_%.py,ops kernels winograd kernel_arguments nonfinite fuse leaks whole_gradients) \
          tests/test_train.py::test_it_learns_shapes tests/test_train.py::test_threading_layer_changes_no_bit

# what needs PyTorch, or the site, or the real images (TINYRES_DATA); without them it is skipped, and says so
PARITY ?= $(patsubst %,tests/test_%.py,site parity family option_a exchange) \
          tests/test_data.py::test_real_cifar10 tests/test_train.py::test_it_learns_cifar10
# with what `make installed` tries the package: those that uv finds
PYTHONS  ?= 3.11 3.12 3.13 3.14
VERSIONS ?= lowest highest

# Those of PYTHON that are new enough, and of these the ones that can make an environment.
recent = $(shell for p in $(PYTHON); do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' && echo $$p; done 2>/dev/null; true)
usable = $(shell for p in $(recent); do $$p -c 'import ensurepip, venv' && echo $$p; done 2>/dev/null; true)

.PHONY: train test widths nightly check lint docs bench parity package installed compare tagged clean

train: $(VENV)/.installed
	$(BIN)/tinyres train $(TRAIN)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(TEST)

# one worker for each set, at the same time: two workers of one set would compile the same kernels
widths: $(VENV)/.installed-dev
	@sets=$$($(BIN)/python -c 'from tinyres.kernels.isa import THERE; print(*(f"width-{s}" for s in THERE[1:]))'); \
	test -z "$$sets" || $(MAKE) -j 2 $(if $(filter output-sync,$(.FEATURES)),--output-sync) $$sets

width-%: $(VENV)/.installed-dev
	TINYRES_SIMD=$* $(BIN)/python -m pytest -n 1 -m "not numpy_alone" $(WIDTHS)

nightly: $(VENV)/.installed-dev
	HYPOTHESIS_PROFILE=nightly $(BIN)/python -m pytest $(TEST)

check: docs lint

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-dev
	$(BIN)/sphinx-build -q -W --keep-going docs docs/_build
	@echo "The site is docs/_build/index.html."

bench: $(VENV)/.installed-torch
	$(BIN)/python benchmarks/train_step.py

parity: $(VENV)/.installed-torch
	$(BIN)/python -m pytest $(TEST) $(PARITY)

package: $(PIP)
	$(BIN)/pip install --quiet build twine check-wheel-contents
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

installed: package
	$(BIN)/pip install --quiet uv
	$(BIN)/python reliability/installed.py dist/*.whl --python $(PYTHONS) --versions $(VERSIONS)

compare: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/releases.py $(AGAINST)

tagged:
	grep -qx '__version__ = "$(TAG:v%=%)"' tinyres/version.py
	grep -qx 'version: $(TAG:v%=%)' CITATION.cff
	grep -qE '^## $(subst .,\.,$(TAG:v%=%)) \(20[0-9-]{8}\)$$' CHANGELOG.md
	grep -q '^tinyres $(TAG:v%=%), kernels for ' docs/howto/install.md

# pip is the last thing that comes into an environment: one without it was begun and never ended.
$(PIP):
	$(if $(recent),,$(error Python 3.11 or newer is needed, and none of "$(PYTHON)" is: say make PYTHON=/path/to/python))
	$(if $(usable),,$(error $(firstword $(recent)) has no venv: install it (apt install python3-venv), or say make PYTHON=...))
	@$(firstword $(usable)) -m venv $(VENV) && test -e $@ || $(firstword $(usable)) -m venv --clear $(VENV)

$(VENV)/.installed: $(PIP) pyproject.toml
	$(BIN)/pip install --quiet --editable '.[plot]'
	touch $@

$(VENV)/.installed-dev: $(PIP) pyproject.toml
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-torch: $(VENV)/.installed-dev
	$(BIN)/pip install --quiet $$($(BIN)/python -c \
	    'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["parity"])')
	touch $@

clean:
	rm -rf $(VENV) dist docs/_build docs/jupyter_execute .mypy_cache .ruff_cache .pytest_cache
