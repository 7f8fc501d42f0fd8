# One command each, on a fresh clone: a virtual environment in .venv, the build, and the work.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORE := $(wildcard csrc/*.h csrc/*/*.[ch] csrc/rules/*.def) $(wildcard csrc/packaging/* fastopt/_core/*) setup.py pyproject.toml

.PHONY: demo test bench bench-peers perf-check stress sanitize fuzz sdist-check release-check wheels lint format config docs docs-check clean

demo: $(VENV)/demo
	$(BIN)/python -m fastopt demo

test: $(VENV)/test
	$(BIN)/python -m pytest -n 2 --dist worksteal

bench: $(VENV)/test
	$(BIN)/python -m pytest bench --benchmark-only

# The other libraries; PEERS="--full" for every workload and size.
bench-peers: $(VENV)/peers
	@mkdir -p build/bench
	$(BIN)/python -m bench.peers --json build/bench/peers.json --picture build/bench/peers.png $(or $(PEERS),--quick)

perf-check: $(VENV)/test
	$(BIN)/python -m bench.instructions

# The slow checks of docs/guarantees.md.
stress: $(VENV)/test
	$(BIN)/python -m tests.stress_saves --saves 200
	$(BIN)/python tests/stress_subnormals.py

sanitize: $(VENV)/test
	$(BIN)/python tests/sanitize.py

fuzz: $(VENV)/test
	for seed in 0 1 2 3 4; do $(BIN)/python tests/fuzz_api.py --seconds 60 --seed $$seed || exit; done
	$(BIN)/python tests/sanitize.py --only fuzz --seconds 300

# The source distribution, built and tested where there is nothing else.
sdist-check: $(VENV)/test
	$(BIN)/python tests/sdist.py

# Before a version is tagged.
release-check: $(VENV)/lint $(VENV)/test docs
	$(BIN)/python tests/release.py

# The core for other systems; wheels for Linux against an old glibc, each tried where there is no compiler.
wheels: $(VENV)/test $(VENV)/wheels
	FASTOPT_TEST_OPTIMISED=1 $(BIN)/python -m pytest -n 2 -rs tests/test_targets.py
	$(BIN)/python tests/wheels.py

lint: $(VENV)/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror csrc/*.h csrc/*/*.[ch] tests/*.[ch] examples/c*/*.[ch]*
	$(BIN)/codespell
	$(BIN)/zizmor --offline --quiet .github
	$(BIN)/python tests/release.py --only versions

format: $(VENV)/lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i csrc/*.h csrc/*/*.[ch] tests/*.[ch] examples/c*/*.[ch]*

config: $(VENV)/demo
	$(BIN)/python -m fastopt config

# The site, in build/docs.
docs: $(VENV)/docs
	$(BIN)/python -m sphinx -W --keep-going --quiet -b html docs build/docs

# Its links, and with chromium and chromedriver every page in a browser.
docs-check: docs
	$(BIN)/python docs/check.py build/docs

clean:
	rm -rf $(VENV) build docs/gallery docs/api/generated *.egg-info fastopt/*.so

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# The build in place.
$(VENV)/build: $(BIN)/python $(CORE)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

# The packages of one extra; pip finds fastopt installed, and does not build it again.
$(VENV)/demo $(VENV)/test $(VENV)/lint $(VENV)/peers $(VENV)/docs $(VENV)/wheels: $(VENV)/%: $(VENV)/build
	$(BIN)/python -m pip install --quiet "fastopt[$*]"
	@touch $@
