# A fresh machine needs Python 3.11 or newer and make; everything else goes into .venv.
#
#   make test       the default tests: no GPU, no download        make test ARGS="-k probes -x"
#   make test-slow  the slow tests as well
#   make gpu-test   the tests of a CUDA device
#   make foreign-test  potentials of other packages, torch-sim and i-PI, in an environment of their own (2 GB)
#   make lint       ruff (rules and format) and mypy
#   make demo       trains the schemes on bundled data, scores them, writes phl-demo/report.html
#   make clean      removes both environments and what tools left behind

PYTHON  ?= $(shell command -v python3.11 || command -v python3)
VENV    ?= .venv
WORKERS ?= 2
DEMO    ?= phl-demo
# the packages of other potentials bring versions of their own: kept apart
FOREIGN ?= .venv-foreign
BIN     := $(VENV)/bin
READY   := $(VENV)/.phl-ase-installed
# each worker of pytest computes on one thread, so that WORKERS is the number of busy cores; a worker takes half of all
# tests in their order, so that what a file's tests share is made once, and of the other's when its own are done
SINGLE  := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
SHARED  := -n $(WORKERS) --dist worksteal
PYTEST  := $(SINGLE) $(BIN)/python -m pytest

.PHONY: test test-slow gpu-test foreign-test lint demo clean

test: $(READY)
	$(PYTEST) $(SHARED) $(ARGS)

test-slow: $(READY)
	$(PYTEST) $(SHARED) -m "not gpu and not foreign and not reference" $(ARGS)

gpu-test: $(READY)
	$(PYTEST) -m gpu $(ARGS)

foreign-test: $(FOREIGN)/.phl-ase-installed
	$(SINGLE) $(FOREIGN)/bin/python -m pytest -n $(WORKERS) -m foreign $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: $(READY)
	$(BIN)/phl demo --out $(DEMO)

$(READY): EXTRAS := dev
$(FOREIGN)/.phl-ase-installed: EXTRAS := test,foreign,torch-sim,ipi

# torch first: with the pinned version in place, no later step takes another build of it
%/.phl-ase-installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $*
	$*/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$*/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

clean:
	rm -rf $(VENV) $(FOREIGN) build dist phl_ase.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find phl_ase tests -name __pycache__ -type d -prune -exec rm -rf {} +
