# `make demo` and `make test` need GNU make and Python 3.11 or later; the rest is installed into .venv on the first call.
# Another Python: make PYTHON=python3.12 demo

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: help demo demo-segment demo-instances test lint lock licences bench clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo            train a detector on embedded pictures and show how good it is'
	@echo 'make demo-segment    the same with the class of every pixel in place of boxes'
	@echo 'make demo-instances  the same with the mask of each flower beside its box'
	@echo 'make test            run the tests'
	@echo 'make lint            check style and types'
	@echo 'make lock            note the installed versions, for .ci/run'
	@echo 'make licences        write docs/licences.md'
	@echo 'make bench           run all benchmarks, one after another'
	@echo 'make clean           remove .venv, caches and builds; runs/ stays'

demo: $(INSTALLED)
	$(BIN)/detseg demo

demo-segment: $(INSTALLED)
	$(BIN)/detseg demo --task segmenter

demo-instances: $(INSTALLED)
	$(BIN)/detseg demo --task instances

# With bytecode, whatever the shell says: processes that tests start would compile all of detseg again, each of them.
test: $(INSTALLED)
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal

lint: $(INSTALLED)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

lock licences: $(INSTALLED)
	$(BIN)/python .ci/dependencies.py $@

# Goes on after a benchmark that fails, and says so at the end.
bench: $(INSTALLED)
	@failed=; for script in benchmarks/*.py; do \
		echo "== $$script"; $(BIN)/python "$$script" || failed="$$failed $$script"; \
	done; [ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

# The stamp holds the folder it was made in: scripts in .venv do not survive a move. They do not survive a change of
# the system's Python either; then the command below prints nothing.
ifneq ($(shell $(BIN)/python -c 'print(open("$(INSTALLED)").read())' 2>/dev/null),$(CURDIR))
.PHONY: $(INSTALLED)
NEW := --clear
endif

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("detseg needs Python 3.11 or later; $(PYTHON) is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(NEW) .venv
	$(BIN)/python -m pip install --editable '.[dev]'
	@printf '%s' '$(CURDIR)' > $@
