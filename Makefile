# make demo | test | test-slow | test-fetched | test-browser | lint | dev | bench | clean

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PYTEST  = $(BIN)/pytest

# An editable install sees edited and new Python files by itself; it must be repeated for what these files decide.
INSTALL_INPUTS := pyproject.toml constraints.txt CMakeLists.txt $(shell find qcompiler/native -name '*.cpp' -o -name '*.h' -o -name CMakeLists.txt)

.PHONY: demo test test-slow test-fetched test-browser lint dev bench clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(STAMP): $(BIN)/python $(INSTALL_INPUTS)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]' \
	    -Ccmake.define.QCOMPILER_WARNINGS_AS_ERRORS=ON
	touch $@

dev: $(BIN)/python
	rm -f $(STAMP)
	$(MAKE) $(STAMP)

# Tools that read files rather than import modules must find passes/ where an installation has it. import-linter asks
# Python where the package is, so the finder of the editable install must stand aside for it.
lint: $(STAMP)
	$(BIN)/ruff check .
	rm -rf build/lint && mkdir -p build/lint/qcompiler
	ln -s $(CURDIR)/qcompiler/* build/lint/qcompiler/ && ln -s $(CURDIR)/passes build/lint/qcompiler/passes
	cd build/lint && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache -p qcompiler
	cd build/lint && SKBUILD_EDITABLE_SKIP=$(CURDIR)/build/library \
	    $(CURDIR)/$(BIN)/lint-imports --no-logo --no-cache --config $(CURDIR)/pyproject.toml

test: lint
	$(PYTEST) -m "not slow and not fetched and not browser"

test-slow: $(STAMP)
	$(PYTEST) -m "slow and not fetched"

test-fetched: $(STAMP)
	$(PYTEST) -m fetched

# Fails where no browser is found: apt-get install chromium, or BROWSER=/path/to/one.
test-browser: $(STAMP)
	$(PYTEST) -m browser

demo: $(STAMP)
	$(BIN)/python tools/demo.py

bench: $(STAMP)
	$(BIN)/python tools/compare_peers.py

clean:
	rm -rf build dist demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache $(VENV)
