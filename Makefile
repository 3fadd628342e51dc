# What a stranger would guess: make help.

VENV   ?= .venv
DESTDIR ?=
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
ARGS   ?=

BIN    := $(VENV)/bin
STAMP  := $(VENV)/.transship-installed
PROTOS := $(wildcard src/transship/stores/containerd/api/*.proto)

# The newest Python from 3.11 on that can make environments. Each is run, not only looked for: a name may be a shim that leads nowhere.
PYTHON ?= $(shell for python in python3.14 python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)

.DEFAULT_GOAL := help
.PHONY: help venv demo test real lint bench generated install uninstall clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo 'Variables: PYTHON (which Python), ARGS (more arguments for pytest or the benchmark), VENV, DESTDIR, PREFIX, SYSCONFDIR.'

venv: $(STAMP) ## make .venv with transship and all that its development needs

$(STAMP): pyproject.toml hatch_build.py $(PROTOS)
	$(call make_venv,$(VENV))
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@

demo: venv ## move the sample store into an OCI layout, verify it; needs no root and no Docker
	@samples/demo $(BIN) build/demo

test: venv ## run the tests that need no daemons
	$(BIN)/pytest -m "not real" $(ARGS)

real: venv ## run the tests with real daemons; as root installs what they need from Debian
	@.ci/programs
	CI=true $(BIN)/pytest -m real $(ARGS)

lint: venv ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: venv ## measure: builds a large store with a real dockerd, takes minutes, needs root
	test -e build/bench/root || $(BIN)/python bench/make_store.py build/bench
	$(BIN)/python bench/run.py --store build/bench $(ARGS)
	$(BIN)/python bench/many_images.py
	$(BIN)/python bench/load.py --store build/bench $(ARGS)
	$(BIN)/python bench/old_store.py $(ARGS)
	$(BIN)/python bench/bolt_dump.py

generated: venv ## make man page and completions in share/ anew, from the commands as they are
	$(BIN)/python share/generate.py

install: ## install below PREFIX (program, units, man page, completions) and SYSCONFDIR (configuration); DESTDIR goes before both
	@$(need_python)
	@$(paths) PYTHON='$(PYTHON)' share/install install

uninstall: ## remove what install put there, except the configuration; the state stays too
	@$(paths) share/install uninstall

paths = DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' SYSCONFDIR='$(SYSCONFDIR)'

clean: ## remove everything that can be made again
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests bench samples -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f src/transship/stores/containerd/api/*_pb2.py src/transship/stores/containerd/api/*_pb2.pyi

# An environment at $(1) with a pip that knows dependency groups; one that is there and works is kept.
define make_venv
	@$(1)/bin/python -c '' 2>/dev/null || { $(need_python); $(PYTHON) -m venv --clear $(1); }
	$(1)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
endef

need_python = test -n '$(PYTHON)' || { echo 'No Python from 3.11 on that can make environments was found.' \
	'On Debian: apt-get install python3 python3-venv; elsewhere: make $(or $(MAKECMDGOALS),venv) PYTHON=/path/to/python3' >&2; exit 1; }
