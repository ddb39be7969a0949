# A fresh machine needs Python 3.11 or newer and make; everything else goes into .venv.
#
#   make test       the default tests: no GPU, no download        make test ARGS="-k probes -x"
#   make test-slow  the slow tests as well
#   make gpu-test   the tests of a CUDA device
#   make lint       ruff (rules and format) and mypy
#   make demo       trains the schemes on bundled data, scores them, writes phl-demo/report.html
#   make clean      removes .venv and what tools left behind

PYTHON  ?= $(shell command -v python3.11 || command -v python3)
VENV    ?= .venv
WORKERS ?= 2
DEMO    ?= phl-demo
BIN     := $(VENV)/bin
READY   := $(VENV)/.phl-ase-installed
# each worker of pytest computes on one thread, so that WORKERS is the number of busy cores
PYTEST  := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: test test-slow gpu-test lint demo clean

test: $(READY)
	$(PYTEST) -n $(WORKERS) $(ARGS)

test-slow: $(READY)
	$(PYTEST) -n $(WORKERS) -m "not gpu and not foreign and not reference" $(ARGS)

gpu-test: $(READY)
	$(PYTEST) -m gpu $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: $(READY)
	$(BIN)/phl demo --out $(DEMO)

# torch first: with the pinned version in place, no later step takes another build of it
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist phl_ase.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find phl_ase tests -name __pycache__ -type d -prune -exec rm -rf {} +
