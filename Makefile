# `make help` lists the verbs. Everything happens in .venv and build/; nothing outside this folder is changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Where torch comes from: empty for the package index that pip uses; TORCH_INDEX=URL for another one, for example
# PyTorch's index of CPU-only builds; TORCH=site to use the torch that $(PYTHON) already has.
TORCH ?=
TORCH_INDEX ?=

# Two files of tests at a time: many tests wait for processes to start.
TOGETHER ?= --numprocesses 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all test-oldest soak check docs bench bench-quick gpu-check clean

help:  ## list the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "make %-11s %s\n", $$1, $$2}'

setup: $(VENV)/.ready $(VENV)/.native  ## make .venv with the pinned packages (several GB: torch's CUDA libraries)

$(VENV)/.ready: requirements.txt requirements-torch.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.platform == "linux" else "imagenet-ais runs on Linux alone: use a Linux machine, WSL or a container")'
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12 setup") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(if $(filter site,$(TORCH)),--system-site-packages) $(VENV)
	$(if $(filter site,$(TORCH)),@echo "using the torch of $(PYTHON)",$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements-torch.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)))
	$(BIN)/python -m pip install --disable-pip-version-check -q --require-hashes -r requirements.txt
	@touch $@

# Samples of the same bytes in less time, where there is a C compiler.
$(VENV)/.native: $(VENV)/.ready $(wildcard native/*.py native/*.toml native/src/*)
	@mkdir -p build
	@$(BIN)/python -m pip install --disable-pip-version-check -q --no-build-isolation ./native > build/native.log 2>&1 || \
		echo "imagenet-ais-native was not built (build/native.log): Pillow makes the samples, with the same bytes; install a C compiler (Debian: gcc libc6-dev), then make setup" >&2
	@touch $@

demo: setup  ## a small data set, an embedded AIStore, two ETLs, a trained model (about 2 minutes on 2 cores)
	$(BIN)/python -m scripts.make_demo_data data/demo --train 56
	$(BIN)/python train.py experiment=demo data.embedded_root=data/demo run_dir=runs/demo resume=never

# Versions beside those of .venv that the tests compare with them.
OTHERS := build/pillow-12/.ready build/uvicorn-0.32/.ready

# The pixels must not depend on Pillow's version: the tests compare two.
build/pillow-12/.ready: $(VENV)/.ready
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps --upgrade --target build/pillow-12 'pillow==12.3.0'
	@touch $@

# ETLs extend uvicorn's protocol, and AIStore's image has a uvicorn of its own: the tests try the oldest.
build/uvicorn-0.32/.ready: $(VENV)/.ready
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps --upgrade --target build/uvicorn-0.32 'uvicorn==0.32.0'
	@touch $@

check: setup  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check $(OTHERS)  ## lint, types and tests
	$(BIN)/python -m pytest -q $(TOGETHER)

test-all: check $(OTHERS)  ## the same with the long matrices
	$(BIN)/python -m pytest -q $(TOGETHER) --all

# The oldest versions that pyproject.toml allows; NumPy 1.26 wants Python 3.11 or 3.12.
build/oldest/.ready: pyproject.toml .ci/oldest.py
	$(PYTHON) -m venv --clear build/oldest
	$(PYTHON) .ci/oldest.py > build/oldest/requirements.txt
	build/oldest/bin/python -m pip install --disable-pip-version-check -q -r build/oldest/requirements.txt pytest pytest-xdist kubernetes-validate
	@touch $@

test-oldest: build/oldest/.ready  ## the tests with the oldest versions of all packages
	build/oldest/bin/python -m pytest -q $(TOGETHER) --share 0 tests/unit tests/integration/test_train.py tests/integration/test_one_value.py

soak: setup  ## faults at random for MINUTES (20): every run must end the same
	$(BIN)/python -m tests.faults.soak --minutes $(or $(MINUTES),20)

docs: setup  ## the pages of docs/ as a site with a search, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open build/site/index.html in a browser"

# The benchmarks' peers, in an environment of their own that sees the packages of .venv.
build/bench/.ready: $(VENV)/.ready benchmarks/requirements.txt benchmarks/environment.py
	$(BIN)/python -m benchmarks.environment build/bench
	@touch $@

bench: setup build/bench/.ready  ## the figures of the README, in benchmarks/results (15 minutes on 2 cores)
	build/bench/bin/python -m benchmarks

bench-quick: setup build/bench/.ready  ## seven of them with few images, in build/bench-quick (2 minutes)
	build/bench/bin/python -m benchmarks --quick

gpu-check: setup  ## tests, speeds and peers on one GPU, in build/gpu-check (MINUTES=7)
	$(BIN)/python -m benchmarks.gpu --minutes $(or $(MINUTES),7)

clean:  ## remove .venv, build and caches; runs and data stay
	rm -rf $(VENV) build .mypy_cache .pytest_cache .ruff_cache
