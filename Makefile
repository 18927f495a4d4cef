# The two commands of the README are `make demo` and `make test`. Each makes .venv first, with the versions of
# constraints.txt, if it is not there; nothing outside this folder is touched.

PYTHON ?= python3
# Where torch comes from, if not from the default index: TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=

VENV := .venv
INSTALLED := $(VENV)/.installed
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
DEMO := out/demo
BUNDLED := sdhubert_ray/assets/demo
PEERS := .venv-peers
FAST := not ray and not seconds and not slow and not gpu and not chaos
# Two processes: the tests that share a Ray are one's, the rest goes wherever there is time.
PYTEST := $(VENV)/bin/python -m pytest -n 2 --dist loadgroup

# Hundreds of processes import the same files: where the environment forbids to keep their bytecode, each compiles them.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all check coverage lint lower-bounds format vendor docs docs-check pictures bench
.PHONY: bench-gpu peers clean distclean

help: ## list these targets
	@echo "usage: make TARGET [PYTHON=python3] [TORCH_INDEX=https://download.pytorch.org/whl/cpu]"
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(INSTALLED) ## segment synthetic speech, print its syllables beside the true ones, draw them into out/demo/demo.png
	$(VENV)/bin/sdhubert segment $(BUNDLED) $(DEMO) --checkpoint bundled --engine ray \
		--frame-features float32 --overwrite
	$(VENV)/bin/sdhubert show $(DEMO) synth_2.flac --references $(BUNDLED)/syllables.json --limit 100
	$(VENV)/bin/sdhubert show $(DEMO) synth_0.flac --references $(BUNDLED)/syllables.json --limit 100 \
		-o $(DEMO)/demo.png --overwrite

test: $(INSTALLED) ## all tests but those marked slow, chaos or gpu
	$(PYTEST) --durations=20

test-all: $(INSTALLED) ## every test: also those marked slow and chaos, and gpu where there is one
	$(PYTEST) --durations=20 -m ""

check: lint ## all linters, then the quick tests: no Ray, nothing marked seconds
	$(PYTEST) -m "$(FAST)"

coverage: $(INSTALLED) ## make test, with the branches of our own code that it runs
	$(PYTEST) --cov --cov-report=term-missing:skip-covered

lint: $(INSTALLED) ## ruff, format, mypy, cython-lint, import-linter; changes nothing
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy --config-file benchmarks/mypy.ini benchmarks
	PATH="$(VENV)/bin:$$PATH" cython-lint mincut
	$(VENV)/bin/lint-imports

format: $(INSTALLED) ## sort imports and format, in place
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

docs: $(INSTALLED) ## build the site into out/site; a warning fails
	@mkdir -p out
	@# Not --quiet, with which --strict has no warnings to count.
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict >out/docs.log 2>&1 || { cat out/docs.log; exit 1; }
	@echo "out/site/index.html"

docs-check: $(INSTALLED) ## run every command on the pages of docs/, some minutes; lists what is not run
	$(VENV)/bin/python docs/tools/run_pages.py

pictures: $(INSTALLED) ## draw docs/images/ anew, by the commands of the pages, and what the notebook shows
	$(VENV)/bin/python docs/tools/run_pages.py --pictures quickstart.md
	PYTHONWARNINGS=ignore $(VENV)/bin/jupyter execute --inplace examples/quickstart.ipynb

lower-bounds: ## the quick tests with the lowest versions that pyproject.toml allows, in .venv-lowest
	PYTHON=$(PYTHON) TORCH_INDEX=$(TORCH_INDEX) .ci/lower-bounds

vendor: ## fetch the scripts of others that reports use, at the version and digest of vendor.json
	.ci/vendor

bench: $(INSTALLED) ## every benchmark that this machine can run, hours; with recordings: make bench SPEECH=FOLDER
	$(VENV)/bin/python benchmarks/run.py $(if $(SPEECH),--speech $(SPEECH)) \
		$(if $(wildcard $(PEERS)/.installed),--peers $(PEERS)/bin/python)

bench-gpu: $(INSTALLED) ## what a GPU is used for: encoder, pipeline, min-cut; fails where there is none
	BENCH_RESULTS=benchmarks/results $(VENV)/bin/python benchmarks/bench_gpu.py

peers: $(PEERS)/.installed ## make .venv-peers, with the packages that bench compares with

install: $(INSTALLED) ## make .venv and build the extension, if that is not done

clean: ## remove what was built, the demo's output, the site and caches; keep .venv
	rm -rf build dist *.egg-info mincut/*.so mincut/*.c mincut/*.html $(DEMO) out/site $(INSTALLED)
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.*' -prune -exec rm -rf {} +

distclean: clean ## clean, and remove .venv and its like
	rm -rf $(VENV) $(PEERS) .venv-lowest

# --- the environment -------------------------------------------------------------------------------------------

# An editable install: the sources in this tree are what runs, and the extension is built beside its .pyx. It is
# built with the Cython and setuptools of .venv (no isolation), so a rebuild needs no network. torch comes first and
# alone, because the index of TORCH_INDEX may lack the pinned versions of its dependencies.
$(INSTALLED): pyproject.toml constraints.txt $(wildcard mincut/*.pyx) | $(VENV)/bin/python
	@echo "installing the pinned packages into $(VENV): 4 minutes and 2.5 GB the first time (a CUDA torch: more)"
	@rm -f mincut/_*.so mincut/_*.c
	$(PIP) install -q -c constraints.txt pip setuptools Cython
	$(PIP) install -q -c constraints.txt --no-deps $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	PYTHONWARNINGS=ignore $(PIP) install -q -c constraints.txt --no-build-isolation -e '.[dev,s3]'
	@touch $@

$(PEERS)/.installed: benchmarks/peers.txt
	$(PYTHON) -m venv --clear $(PEERS)
	$(PEERS)/bin/python -m pip install -q $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $$(grep ^torch== benchmarks/peers.txt)
	$(PEERS)/bin/python -m pip install -q --no-deps -r benchmarks/peers.txt
	@touch $@

# What the compiler check asks: the compiler that this Python was built with, unless CC says otherwise.
compiler = import os, sysconfig; print((os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0])
headers = import pathlib, sysconfig; print(pathlib.Path(sysconfig.get_path("include"), "Python.h"))

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || \
		{ echo "error: there is no $(PYTHON); install Python 3.11 or newer, or name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1); try: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "error: $(PYTHON) cannot make environments; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@command -v "$$($(PYTHON) -c '$(compiler)')" >/dev/null || \
		{ echo "error: a C compiler is needed ($$($(PYTHON) -c '$(compiler)')); on Debian and Ubuntu: apt-get install gcc libc6-dev"; exit 1; }
	@test -e "$$($(PYTHON) -c '$(headers)')" || \
		{ echo "error: the headers of $(PYTHON) are missing; on Debian and Ubuntu: apt-get install python3-dev"; exit 1; }
	$(PYTHON) -m venv $(VENV)
