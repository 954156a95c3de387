# Each target does all the set-up on a fresh machine with Python 3.11+ and git.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# OpenMP threads that spin for long while they wait collapse where anything else runs on the cores.
export GOMP_SPINCOUNT ?= 1000

.PHONY: demo world test slow tables docs lint wheel clean

demo: $(VENV)/ready
	$(BIN)/steer demo --output demo

# The whole pipeline on a simulated world, where what a response is worth is known: the ground truth of the tests.
world: $(VENV)/ready
	$(BIN)/steer world --output world

test: $(VENV)/ready lint
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	$(MAKE) wheel

# What takes minutes: processes that are killed, two machines, coverage of intervals, a whole suite at toy size.
slow: $(VENV)/ready
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The wheel must hold all three packages and work where the checkout is not importable.
wheel: $(VENV)/ready
	rm -rf dist build && $(BIN)/python -m build --wheel --no-isolation --outdir dist . > /dev/null
	$(BIN)/python tests/try_wheel.py dist

# The world, its methods and the claims, at one commit and on three bases; stopped, it goes on.
tables: $(VENV)/ready
	PATH="$(CURDIR)/$(BIN):$$PATH" bash benchmarks/tables.sh tables

# The pages as a site, in build/site: the generated ones are written again, and a link that leads nowhere is an error.
docs: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python docs/generate.py
	$(BIN)/python -m sphinx -q -W --keep-going -c docs -b html . build/site
	@echo "Open build/site/docs/index.html"

# torch comes first and alone: the constraint keeps it at the tested version, which is a CPU build where there is one.
$(VENV)/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist demo world tables
