# Each target does all of its own set-up and does it once. Nothing is installed outside this folder.
#
# make test                           .venv from python3, with the torch these sources are tested with
# make test PYTHON=/path/to/python    that interpreter and its torch; nothing is downloaded

TORCH_VERSION ?= 2.13.0
RNNKERN_WERROR ?= 1
MAX_JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
export RNNKERN_WERROR MAX_JOBS

# The check of a GPU takes the interpreter at hand, whose torch has CUDA.
ifneq ($(filter gpu-%,$(MAKECMDGOALS)),)
PYTHON ?= python3
endif

ifndef PYTHON
BASE_PYTHON := $(shell command -v python3)
PYTHON := .venv/bin/python
# Written last: an environment without it was interrupted, or is another torch's.
ENVIRONMENT := .venv/.complete-torch-$(TORCH_VERSION)
endif
# Tools that pip installed beside the interpreter come first.
export PATH := $(abspath $(dir $(shell command -v $(PYTHON) || echo $(PYTHON)))):$(PATH)
RUN := PYTHONPATH=$(CURDIR) $(PYTHON)

PINS := requirements-dev.txt requirements-bench.txt requirements-examples.txt
# The folders are in it too: their time is that of the last file removed.
SOURCES := $(shell find csrc) setup.py pyproject.toml
CXX_FILES := $(shell find csrc tests benchmarks -name '*.cpp' -o -name '*.h' -o -name '*.inl' -o -name '*.cu*')
PYTHON_FILES := setup.py $(wildcard rnnkern tests benchmarks examples)
TYPED := $(wildcard rnnkern benchmarks examples)

.PHONY: help build test bench bench-full gpu-available gpu-check lint format package-check clean FORCE
.DELETE_ON_ERROR:

help:
	@echo 'make test           build, and run the tests            (TESTS="-k lstm -x" goes to pytest)'
	@echo 'make bench          build, and run the benchmarks       (BENCH="..." goes to benchmarks.run)'
	@echo 'make bench-full     every size and option, against what is installed of requirements-peers.txt: hours'
	@echo 'make gpu-check      build with python3, and check and measure a GPU  (CHECK="--only tests" for a part)'
	@echo 'make lint           check style and types'
	@echo 'make format         put the sources into that style'
	@echo 'make build          build the extension in this folder'
	@echo 'make package-check  build sdist and wheel, and use the wheel away from this folder'
	@echo 'make clean          remove what was built; .venv stays'
	@echo 'PYTHON=...          use that interpreter and its torch instead of .venv'

build: build/built

test: build
	$(RUN) -m pytest $(TESTS)

bench: build
	$(RUN) -m benchmarks.run $(BENCH)

bench-full: build
	$(RUN) -m benchmarks.run --full $(BENCH)

gpu-check: gpu-available build
	$(RUN) -m benchmarks.gpu.check $(CHECK)

# Before anything is built.
gpu-available:
	@$(RUN) -m benchmarks.gpu.available

lint: $(ENVIRONMENT)
	$(PYTHON) -m ruff check $(PYTHON_FILES)
	$(PYTHON) -m ruff format --check $(PYTHON_FILES)
	clang-format --dry-run -Werror $(CXX_FILES)
	$(PYTHON) -m mypy $(TYPED)

format: $(ENVIRONMENT)
	$(PYTHON) -m ruff check --fix $(PYTHON_FILES)
	$(PYTHON) -m ruff format $(PYTHON_FILES)
	clang-format -i $(CXX_FILES)

# The wheel comes from the sdist, so that either lacking a file fails; torch is the interpreter's own.
package-check: $(ENVIRONMENT)
	rm -rf build/package && mkdir -p build/package
	$(PYTHON) setup.py -q sdist --dist-dir build/package
	$(PYTHON) -m pip wheel --no-cache-dir --no-deps --no-index --no-build-isolation -w build/package build/package/*.tar.gz
	$(PYTHON) -m pip install --no-deps --no-index --target build/package/site build/package/*.whl
	cd build/package && PYTHONPATH=site $(abspath $(PYTHON)) $(CURDIR)/tests/package_check.py

clean:
	rm -rf build dist *.egg-info rnnkern/_C.*.so rnnkern/_C.*.pyd
	find $(PYTHON_FILES) -name __pycache__ -prune -exec rm -rf {} +

# A change of pins updates a whole environment; what is left of a broken one is thrown away.
.venv/.complete-torch-%: $(PINS)
	if ls .venv/.complete-* >/dev/null 2>&1; then rm .venv/.complete-*; \
	else $(BASE_PYTHON) -m venv --clear .venv; fi
	.venv/bin/python -m pip install torch==$* $(PINS:%=-r %)
	touch $@

# What a built extension depends on besides its sources. A change starts afresh.
build/config: $(ENVIRONMENT) FORCE
	@mkdir -p build
	@$(PYTHON) -c 'import os, sys, importlib.metadata as m; print(sys.executable, sys.version, \
	    m.version("torch"), *map(os.environ.get, ("CC", "CXX", "CFLAGS", "CXXFLAGS", "CUDA_HOME", \
	    "TORCH_CUDA_ARCH_LIST", "RNNKERN_CUDA", "RNNKERN_DEBUG", "RNNKERN_WERROR")), sep="\n")' > build/config.new
	@nvcc --version >> build/config.new 2>&1 || true
	@if cmp -s build/config.new build/config; then rm build/config.new; \
	else rm -rf build/temp.* && mv build/config.new build/config; fi

ifeq ($(wildcard rnnkern/_C.*.so rnnkern/_C.*.pyd),)
.PHONY: build/built
endif
build/built: $(SOURCES) build/config
	$(PYTHON) setup.py build_ext --inplace
	touch $@
