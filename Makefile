# Needs Python 3.11, 3.12 or 3.13, with venv, and make. Everything else goes into .venv.

PYTHON ?= python3
VENV := .venv
MADE := $(VENV)/.made
DEMO := $(VENV)/.demo
STAMP := $(VENV)/.complete
MANUAL := $(VENV)/.manual
SYSTEM := $(VENV)/.system

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

.DEFAULT_GOAL := help
.PHONY: help venv venv-all demo test test-system coverage docs sim crash cluster standby days bench bench-full pages strangers mutants screenshots lint clean image test-image deb release test-release

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

# Installs notifierd with EXTRAS: by uv if it is there and knows an index, else by pip. Modules are compiled when imported.
UV := $(shell command -v uv)
define install
	@$(if $(UV),$(UV) pip install -q --python $(VENV)/bin/python -c constraints.txt -e '.[$(EXTRAS)]' 2>/dev/null || )\
	  { $(VENV)/bin/python -m pip install --no-compile -c constraints.txt -e '.[$(EXTRAS)]' || echo failed; } | { \
	  count=0; while read -r word rest; do case $$word in \
	    Collecting) count=$$((count + 1)); printf '\rpackages: %d' $$count ;; \
	    failed) exit 1 ;; \
	  esac; done; echo; } >&2
endef

venv: $(STAMP) ## create .venv with the versions of constraints.txt

venv-all: EXTRAS := demo,dev,docs,system
venv-all: $(MADE) ## create .venv with what lint, test, docs and test-system need, at once
	$(install)
	@touch $(DEMO) $(STAMP) $(MANUAL) $(SYSTEM)

$(MADE): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "notifierd needs Python 3.11, 3.12 or 3.13; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Name another: make PYTHON=python3.12" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) -V)." >&2
	@$(PYTHON) -m venv --clear $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed: on Debian and Ubuntu, apt-get install python3-venv." >&2; exit 1; }
	@touch $@

$(DEMO): EXTRAS := demo
$(DEMO): $(MADE)
	$(install)
	@touch $@

$(STAMP): EXTRAS := demo,dev
$(STAMP): $(MADE)
	$(install)
	@touch $(DEMO) $@

$(MANUAL): EXTRAS := demo,dev,docs
$(SYSTEM): EXTRAS := demo,dev,system
$(MANUAL) $(SYSTEM): $(STAMP)
	$(install)
	@touch $@

demo: $(DEMO) ## make one full run on this machine, without set-up (ARGS="--offices 20 --keep")
	@$(VENV)/bin/notifierd demo $(ARGS)

test: $(STAMP) ## run the test suite (PYTEST_ARGS="-n 0 -k drain -x")
	@$(VENV)/bin/pytest -n 4 --dist worksteal $(PYTEST_ARGS)

test-system: $(SYSTEM) ## run the tests that need root and Debian packages: see .ci/run
	@$(VENV)/bin/pytest tests/system -n 2 --dist loadfile $(PYTEST_ARGS)
	@$(VENV)/bin/pytest tests/pooler -n 2 $(PYTEST_ARGS) # in processes of its own: Playwright and trio-asyncio share none

coverage: $(STAMP) ## run the test suite with coverage: at most 5 % may be missed
	@$(VENV)/bin/pytest -n 4 --dist worksteal --cov --cov-fail-under=95 $(PYTEST_ARGS)

docs: $(MANUAL) ## build the manual in docs/_build; a broken link is an error
	@$(VENV)/bin/python -m docs.generate
	@$(VENV)/bin/sphinx-build -qaE -W --keep-going docs docs/_build

sim: $(STAMP) ## simulate runs with faults (RUNS=100000; SEED=n replays one; ARGS="--kinds changes")
	@$(VENV)/bin/python -m tests.experiments.sim $(if $(SEED),--seed $(SEED),--runs $(or $(RUNS),100000)) $(ARGS)

crash: $(STAMP) ## kill real runs at random moments (ROUNDS=200; ARGS=--no-keys, --smtp, --failover, --restore, "--pool session")
	@$(VENV)/bin/python -m tests.experiments.crash --rounds $(or $(ROUNDS),200) $(ARGS)

cluster: $(STAMP) ## kill, freeze, cut off, terminate and add real daemons that share a day (ROUNDS=20)
	@$(VENV)/bin/python -m tests.experiments.cluster --rounds $(or $(ROUNDS),20) $(ARGS)

standby: $(STAMP) ## kill the active one of two real daemons (ROUNDS=20)
	@$(VENV)/bin/python -m tests.experiments.standby --rounds $(or $(ROUNDS),20) $(ARGS)

days: $(STAMP) ## run many days in one daemon and watch tasks, files and memory (DAYS=1000)
	@$(VENV)/bin/python -m tests.experiments.days --days $(or $(DAYS),1000)

bench: $(STAMP) ## measure speed and memory, about 30 minutes (ARGS="--only costs")
	@$(VENV)/bin/python -m pip install -qq -c constraints.txt -e '.[demo,dev,bench,peers]'
	@$(VENV)/bin/python -m bench $(ARGS)

bench-full: $(STAMP) ## measure more latencies and sizes, and draw the plots in docs/images
	@$(VENV)/bin/python -m pip install -qq -c constraints.txt -e '.[demo,dev,bench,peers]'
	@$(VENV)/bin/python -m bench --full --plots docs/images

pages: $(STAMP) ## measure what fifty open pages cost a run (SECONDS=120)
	@$(VENV)/bin/python -m bench.pages --seconds $(or $(SECONDS),120)

strangers: $(STAMP) ## measure what requests without a token cost a run (ARGS="--only pages")
	@$(VENV)/bin/python -m bench.strangers $(ARGS)

mutants: $(STAMP) ## run mutation tests of the rules; then: .venv/bin/mutmut results
	@$(VENV)/bin/python -m pip install -qq -c constraints.txt -e '.[demo,dev,mutants]'
	@$(VENV)/bin/mutmut run

screenshots: $(SYSTEM) ## recreate docs/images; needs chromium, firefox-esr, fonts-noto-cjk and pngquant
	@$(VENV)/bin/python -m tests.support.screenshots
	@$(VENV)/bin/python -m tests.support.page_screenshots
	@$(VENV)/bin/python -m tests.system.push_screenshots

lint: $(STAMP) ## run ruff, mypy and import-linter
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-logo

image: ## build the container image (PYTHON_IMAGE, IMAGE, ENGINE, BUILD_ARGS: see release/image)
	@release/image

test-image: $(STAMP) ## build the image twice, and run it; needs root, buildah, podman, runc and mmdebstrap
	@$(VENV)/bin/python -m pip install -qq -c constraints.txt -e '.[demo,dev,image]'
	@$(VENV)/bin/pytest tests/image $(PYTEST_ARGS)

deb: $(STAMP) ## build the Debian package for this machine's Debian release in dist, with its wheel
	@rm -rf dist
	@$(VENV)/bin/python -m hatchling build -t wheel -d dist >/dev/null
	@release/deb dist/*.whl $(VENV)/bin/python

release: $(STAMP) ## build wheel, sdist, Debian package, image, SBOM and checksums in dist (VERSION=0.2.0 commits it first)
	@$(if $(VERSION),release/version $(VERSION))
	@$(VENV)/bin/python -m pip install -qq -c constraints.txt -e '.[demo,dev,release]'
	@release/build $(VENV)/bin/python

test-release: release ## build the release again, compare checksums, and run lintian, which must be installed
	@cp dist/SHA256SUMS $(VENV)/SHA256SUMS
	@release/build $(VENV)/bin/python
	@cmp dist/SHA256SUMS $(VENV)/SHA256SUMS
	@lintian --fail-on error dist/*.deb

clean: ## remove .venv, caches and build results
	@rm -rf $(VENV) build dist docs/_build htmlcov mutants .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -path ./.git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
