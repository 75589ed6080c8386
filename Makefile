# Two commands do all the set-up: `make demo` and `make test`. Needs python3 (3.11 or newer) and make.
PYTHON ?= python3
UV ?= .cache/uv/bin/uv
# The full form of a campaign is hours; SCALE=0.01 is a minute's taste of it.
SCALE ?= 1
# The time that files in a wheel and sdist bear: 1980, the first that a zip can hold.
DIST_EPOCH = 315532800

.PHONY: help demo demo-aws bundle dist install test check format docs bench profile campaign clean
.DEFAULT_GOAL := help

help: ## Say what there is.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/installed ## Drain a live directory into a local SQS, and prove that nothing was lost.
	@.venv/bin/penstock demo $(ARGS)

demo-aws: .venv/installed ## Deploy the AWS template on this machine, and watch its schedules drain.
	@.venv/bin/python -m examples.local_cloud $(ARGS)

bundle: .venv/installed ## Build the archive that AWS Lambda runs (ARGS="--arch arm64 -o FILE").
	@.venv/bin/python -m scripts.bundle $(ARGS)

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

test: .venv/installed ## Run the tests, several minutes.
	@.venv/bin/pytest -n 2 -m "not campaign" $(ARGS)

check: .venv/installed ## Format, lint, types, import rules, docs.
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/ruff check --quiet .
	@.venv/bin/pyright
	@.venv/bin/lint-imports --no-cache >.cache/lint-imports.log || { cat .cache/lint-imports.log; exit 1; }
	@.venv/bin/pytest -m "not campaign" tests/project/test_docs.py

format: .venv/installed ## Format the code, and mend what the linter can.
	@.venv/bin/ruff check --quiet --fix . ; .venv/bin/ruff format --quiet .

docs: .venv/installed ## Write anew what the docs have from the code: settings, commands, costs.
	@.venv/bin/python scripts/reference.py

bench: .venv/installed ## Measure the whole path, half an hour (ARGS=--quick: a taste).
	@.venv/bin/python bench/run.py $(ARGS)

profile: .venv/installed ## Tell where a loader's time goes, by stage, with py-spy (ARGS="a b d").
	@$(UV) run --no-sync --quiet --with py-spy python bench/profiling.py $(ARGS)

campaign: .venv/installed ## Run the long forms of the tests (SCALE=0.01 for a taste).
	@PENSTOCK_CAMPAIGN_SCALE=$(SCALE) .venv/bin/pytest -n 2 --maxschedchunk 1 -m "campaign or both" --timeout 0 $(ARGS)

clean: ## Remove the virtual environment and caches.
	rm -rf .venv .cache .pytest_cache .ruff_cache .hypothesis

.venv/installed: $(UV) uv.lock pyproject.toml
	@echo "Setting up .venv (once, about 10 s) …"
	@$(UV) sync --locked --quiet --python $(PYTHON)
	@touch $@

.cache/uv/bin/uv:
	@$(PYTHON) scripts/get_uv.py .cache/uv
