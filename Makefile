# Two commands do all the set-up: `make demo` and `make test`. Needs python3 (3.11 or newer) and make.
PYTHON ?= python3
UV ?= .cache/uv/bin/uv
# The virtual environment: another one for another Python (make test VENV=.cache/3.13 PYTHON=python3.13).
VENV ?= .venv
# The full form of a campaign is hours; SCALE=0.01 is a sample of it, still more than ten minutes.
SCALE ?= 1
# The time that files in a wheel and sdist bear: 1980, the first that a zip can hold.
DIST_EPOCH = 315532800

.PHONY: help demo demo-aws bundle dist install test test-bare check format docs bench profile campaign clean
.DEFAULT_GOAL := help

help: ## Say what there is.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/installed ## Drain a live directory into a local SQS, and prove that nothing was lost.
	@$(VENV)/bin/penstock demo $(ARGS)

demo-aws: $(VENV)/installed ## Deploy the AWS template on this machine, and watch its schedules drain.
	@$(VENV)/bin/python -m examples.local_cloud $(ARGS)

bundle: $(VENV)/installed ## Build the archive that AWS Lambda runs (ARGS="--arch arm64 -o FILE").
	@$(VENV)/bin/python -m scripts.bundle $(ARGS)

install: dist ## Install the command `penstock` for this user, from the wheel.
	@$(UV) tool install --quiet --force --python $(PYTHON) --constraints dist/constraints.txt \
	  "penstock-sqs[local] @ file://$(CURDIR)/$$(ls -t dist/*.whl | head -1)"
	@echo "installed: $$($(UV) tool dir --bin)/penstock"

dist: $(UV) ## Build wheel and sdist in dist/, the same bytes wherever and whenever.
	@rm -f dist/penstock_sqs-*
	@mkdir -p dist .cache
	@$(UV) export --frozen --quiet --only-group build -o .cache/build.txt
	@$(UV) export --frozen --quiet --no-dev --all-extras --no-emit-project --no-hashes -o dist/constraints.txt
	@SOURCE_DATE_EPOCH=$(DIST_EPOCH) $(UV) build --quiet --python $(PYTHON) \
	  --build-constraints .cache/build.txt --require-hashes --out-dir dist
	@cd dist && sha256sum penstock_sqs-*

test: $(VENV)/installed ## Run the tests, several minutes.
	@$(VENV)/bin/pytest -n 2 -m "not campaign" $(ARGS)

test-bare: $(VENV)/installed ## The same where neither Redis, nginx nor Chromium is to be found.
	@scripts/bare.sh $(MAKE) --no-print-directory test

check: $(VENV)/installed ## Format, lint, spelling, types, import rules, docs.
	@$(VENV)/bin/ruff format --check --quiet .
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/codespell *.md docs deploy src scripts/*.py Makefile .ci/run
	@$(VENV)/bin/pyright
	@$(VENV)/bin/lint-imports --no-cache >.cache/lint-imports.log || { cat .cache/lint-imports.log; exit 1; }
	@$(VENV)/bin/pytest -m "not campaign" tests/project/test_docs.py

format: $(VENV)/installed ## Format the code, and fix what the linter can.
	@$(VENV)/bin/ruff check --quiet --fix . ; $(VENV)/bin/ruff format --quiet .

docs: $(VENV)/installed ## Write anew what the docs have from the code: settings, commands, costs.
	@$(VENV)/bin/python scripts/reference.py

bench: $(VENV)/installed ## Measure the whole path, half an hour (ARGS=--quick: a taste).
	@$(VENV)/bin/python bench/run.py $(ARGS)

profile: $(VENV)/installed ## Tell where a loader's time goes, by stage, with py-spy (ARGS="a b d").
	@$(UV) run --no-sync --quiet --with py-spy python bench/profiling.py $(ARGS)

campaign: $(VENV)/installed ## Run the long forms of the tests (SCALE=0.01 for a taste).
	@PENSTOCK_CAMPAIGN_SCALE=$(SCALE) $(VENV)/bin/pytest -n 2 --maxschedchunk 1 -m "campaign or both" --timeout 0 $(ARGS)

clean: ## Remove the virtual environment and caches.
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/installed: $(UV) uv.lock pyproject.toml
	@echo "Setting up $(VENV) (once, about 10 s) …"
	@UV_PROJECT_ENVIRONMENT=$(VENV) $(UV) sync --locked --quiet --python $(PYTHON)
	@# Leaves compiled modules behind, where nothing else would: without, each start takes double.
	@env -u PYTHONDONTWRITEBYTECODE $(VENV)/bin/python -c "import penstock.sqs.queue"
	@env -u PYTHONDONTWRITEBYTECODE $(VENV)/bin/penstock --help >/dev/null
	@touch $@

.cache/uv/bin/uv:
	@$(PYTHON) scripts/get_uv.py .cache/uv
