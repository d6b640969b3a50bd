# Short names for what `python bootstrap.py run ...` does; nothing here that cannot be done without make.
# RUN makes or updates .venv first if that is needed. Another Python to start from: make tour PYTHON=python3.12.
# PyTorch's CPU build: make tour SETUP=--cpu. What a learner needs is set up first; the chores below add what they need.
# Every path is relative, so the project may lie in a folder with spaces in its name.

PYTHON ?= python3
SETUP ?=
RUN = $(PYTHON) bootstrap.py $(SETUP) run
CHORE = $(PYTHON) bootstrap.py --extras all,dev $(SETUP) run
BOTH_CORES = -n 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup tour lab test test-slow test-all matrix lint format notebooks site bench clean

help: ## this list
	@$(PYTHON) -c "import re; print('make TARGET, where TARGET is'); [print('  %-10s %s' % m) for m in re.findall(r'(?m)^([a-z-]+):.*?## (.*)', open('Makefile', encoding='utf-8').read())]"

setup: ## make or update .venv (quick when nothing changed)
	@$(PYTHON) bootstrap.py $(SETUP)

tour: ## four minutes: AdaMix beside a single adapter, and what its advantage is made of
	@$(RUN) -m adamix_lab tour

lab: ## open the notebooks in JupyterLab
	@$(RUN) -m adamix_lab lab

test: ## the quick tests (no network, at most ten minutes)
	@$(CHORE) -m pytest $(BOTH_CORES) -m "not slow and not browser and not matrix"

test-slow: ## what `make test` leaves out, the browser's tests last, two at a time
	@$(CHORE) -m pytest $(BOTH_CORES) -m "slow and not browser and not matrix"
	@$(CHORE) -m pytest -n 2 --dist worksteal -m "browser and not matrix"

test-all: test test-slow ## all tests but those of `make matrix`

matrix: ## other versions of what we stand on, and what takes too long for every day; writes data/results/matrix.txt
	@date > data/results/matrix.txt
	@$(CHORE) -m pytest -m matrix -rA --durations=0 >> data/results/matrix.txt; code=$$?; tail -n 40 data/results/matrix.txt; exit $$code

lint: ## formatting, style and types
	@$(CHORE) -m ruff format --check .
	@$(CHORE) -m ruff check .
	@$(CHORE) -m mypy

format: ## put formatting and simple style matters right
	@$(CHORE) -m ruff format .
	@$(CHORE) -m ruff check --fix .

notebooks: ## build and run the notebooks from notebooks/src
	@$(CHORE) notebooks/build.py

site: ## lessons as they ran, guides, API, results and search as one site, in runs/site
	@$(CHORE) docs/build.py

bench: ## the benchmarks, in their quick form
	@$(CHORE) -c "import glob, subprocess, sys; sys.exit(max((subprocess.call([sys.executable, f, '--quick']) for f in sorted(glob.glob('tests/benchmarks/*.py'))), default=0))"

clean: ## delete caches (not .venv, not runs/)
	@$(PYTHON) -c "import pathlib, shutil; [shutil.rmtree(p) for n in ('.pytest_cache', '.mypy_cache', '.ruff_cache', '.hypothesis', 'build', 'dist') for p in pathlib.Path('.').glob(n)]; [shutil.rmtree(p) for p in pathlib.Path('.').rglob('__pycache__') if '.venv' not in p.parts]"
