# make demo   prune a small network on real digits, a minute on two cores
# make test   lint, format check and the quick tests        make test-slow   the long ones too
# Both build .venv the first time and reuse it afterwards.

PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
# One test at a time leaves half of two cores idle; more than four processes want much memory.
PYTEST := .venv/bin/python -m pytest -q -n auto --maxprocesses 4 --dist worksteal
SOURCES := setup.py pyproject.toml

.PHONY: demo test test-slow lint clean
.DELETE_ON_ERROR:

demo: .venv/.installed
	bin/aip_run --gin_file=gin/digits.gin

test: lint
	$(PYTEST)

test-slow: lint
	$(PYTEST) -m 'slow or not slow'

lint: .venv/.installed_test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name it with make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.installed: $(SOURCES) | .venv/bin/python
	.venv/bin/python -m pip install --quiet --editable .
	touch $@

.venv/.installed_test: $(SOURCES) | .venv/bin/python
	.venv/bin/python -m pip install --quiet --editable '.[test]'
	touch $@ .venv/.installed

clean:
	rm -rf .venv build dist *.egg-info
