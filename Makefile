# Everything a person, a pre-commit hook or a build server runs. 'make demo' and 'make test' need nothing but Python 3.10
# or later, git and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test slow lint format types docs site bench kill places fuzz fuzz-guided clean

demo: .venv/.installed
	$(BIN)/decompose demo

test: .venv/.installed-dev
	$(BIN)/python -m pytest --numprocesses auto

slow: .venv/.installed-dev
	$(BIN)/python -m pytest -m slow

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: .venv/.installed-dev
	$(BIN)/mypy

docs: .venv/.installed-dev
	$(BIN)/python docs/update.py
	$(BIN)/python docs/notebook.py

site: .venv/.installed-docs
	$(BIN)/python docs/build_site.py

bench: .venv/.installed-dev
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

kill: .venv/.installed-dev
	$(BIN)/python tests/kill.py

places: .venv/.installed-dev
	$(BIN)/python tests/places.py

COUNT ?= 50000
SEED ?= 0
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
fuzz: .venv/.installed-dev
	$(BIN)/python tests/fuzz --count $(COUNT) --seed $(SEED) --jobs $(JOBS)

fuzz-guided: .venv/.installed-dev
	$(BIN)/python tests/fuzz/guided.py

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("decompose needs Python 3.10 or later" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python requirements.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

.venv/.installed-dev: .venv/.installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-dev.txt
	touch $@

.venv/.installed-docs: .venv/bin/python requirements-docs.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements-docs.txt
	touch $@

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
