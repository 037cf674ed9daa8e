# cubefs: `make demo` and `make test` need nothing prepared; `make help` lists the rest.
SHELL := /bin/bash
VENV  := .venv
PY    := $(VENV)/bin/python

.PHONY: help setup system-packages lint types test demo bench clean

help:
	@grep -E '^## ' $(MAKEFILE_LIST) | sed 's/^## //'

## make setup   system packages where missing, virtual environment, editable install
setup: $(VENV)/.installed

system-packages:
	@bash contrib/system-packages

$(VENV)/.installed: pyproject.toml contrib/system-packages | system-packages
	@test -x $(PY) || python3 -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# mypy wants one tree: link mkfs/ and fsck/ to where they are imported from
types: setup
	@rm -rf build/types && mkdir -p build/types/cubefs
	@ln -s $(CURDIR)/cubefs/* build/types/cubefs/ && ln -s $(CURDIR)/mkfs $(CURDIR)/fsck build/types/cubefs/

## make lint    ruff and mypy --strict
lint: types
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy -p cubefs

## make test    the set-up, the linters, then all tests
test: lint
	@bash tests/support/run-tests

-include Makefile.d/*.mk

clean:
	rm -rf build .mypy_cache .ruff_cache .pytest_cache
