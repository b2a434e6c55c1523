# `make` builds what config.yaml says; `make help` lists the rest.
# ARGS goes on to Snakemake (for `make test`: to pytest), as in
#   make ARGS="--configfile workflow/presets/tiny.yaml"

# a run of config.yaml, for the targets of one stage
RUN ?= stdlib
CORES ?= all
# how many times test-faults kills
KILLS ?= 50
# the first of these that will do makes .venv
PYTHON ?= python3.13 python3.12 python3.11 python3
UV_VERSION := 0.13.8

export UV_PYTHON_DOWNLOADS := never
export UV_PROJECT_ENVIRONMENT := .venv
# the first compiles every module anew at each start; the others would bring other people's packages
unexport PYTHONDONTWRITEBYTECODE PYTHONPATH PYTHONHOME VIRTUAL_ENV

READY := .venv/.ready
# extras that somebody has installed, each told by one of its packages (those of eval and wandb are always there)
has = $(if $(wildcard .venv/lib/python*/site-packages/$(2)*.dist-info),--extra $(1))
EXTRAS = $(call has,cuda,jax_cuda) $(call has,tpu,libtpu) $(call has,fast,gigatoken)
PARITY := .venv-parity
BENCH := .venv-bench
WORKFLOW := .venv/bin/python scripts/run_workflow.py --cores $(CORES)
# the same for one run, whose name is checked first
OF_RUN := MAKELM_RUN='$(RUN)' $(WORKFLOW)
SNAKEFILES := Snakefile workflow/rules

.DEFAULT_GOAL := all
.PHONY: all tokenizer plan train watch sample serve evaluate export report download verify gc test test-parity test-faults test-cluster test-serve presets golden bench check lock help

all: $(READY) ## build what config.yaml lists under runs:
	@$(WORKFLOW) $(ARGS)

tokenizer: $(READY) ## the tokenizer of RUN=<name>; like the next ones, with all it needs
	@$(OF_RUN) tokenizer $(ARGS)

plan: $(READY) ## what RUN=<name> will take: parameters, memory, time
	@$(OF_RUN) results/plan_run/$(RUN)/manifest.json $(ARGS)

train: $(READY) ## the weights of RUN=<name>
	@$(OF_RUN) results/plan_run/$(RUN)/manifest.json results/train_model/$(RUN)/manifest.json $(ARGS)

watch: $(READY) ## how the training of RUN=<name> that goes on elsewhere is doing, until it ends
	@.venv/bin/python scripts/watch_run.py $(RUN) $(ARGS)

sample: $(READY) ## samples of RUN=<name>
	@$(OF_RUN) results/sample_model/$(RUN)/manifest.json $(ARGS)

serve: $(READY) ## an API and a page for RUN=<name>, trained first if need be; flags of scripts/serve_model.py in FLAGS
	@$(OF_RUN) results/train_model/$(RUN)/manifest.json $(ARGS)
	@.venv/bin/python scripts/serve_model.py --run results/train_model/$(RUN) $(FLAGS)

evaluate: $(READY) ## scores of RUN=<name>
	@$(OF_RUN) results/evaluate_model/$(RUN)/manifest.json $(ARGS)

export: $(READY) ## RUN=<name> for Hugging Face transformers
	@$(OF_RUN) results/export_model/$(RUN)/manifest.json $(ARGS)

report: $(READY) ## the report on all runs
	@$(WORKFLOW) results/write_report/manifest.json $(ARGS)

download: $(READY) ## fetch what needs the network, texts, weights and tasks, so that the rest runs without
	@$(WORKFLOW) download $(ARGS)

verify: $(READY) ## say what in results/ is missing, altered or stale; builds nothing
	@$(WORKFLOW) verify $(ARGS)

gc: $(READY) ## list what in results/ no configured run uses; with YES=1, delete it
	@YES=$(YES) $(WORKFLOW) gc $(ARGS)

test: $(READY) ## the tests
	@.venv/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations=15 $(ARGS)

test-parity: $(READY) $(PARITY)/.ready ## exports, imports and tasks against transformers and lm-eval, which this installs beside .venv
	@MAKELM_PARITY_PYTHON=$(CURDIR)/$(PARITY)/bin/python .venv/bin/python -m pytest tests/parity $(ARGS)

test-faults: $(READY) ## meshes, interruptions, and KILLS=50 kill -9 at random moments; TABLES=1 writes docs/training.md's tables
	@MAKELM_FAULTS=$(KILLS) MAKELM_TABLES=$(TABLES) .venv/bin/python -m pytest tests/faults --durations=20 \
	  $(if $(TABLES),--capture=no,--numprocesses 2 --dist loadfile) $(ARGS)

test-cluster: $(READY) ## the pipeline on a Slurm that this starts and stops; as root, it installs Debian's packages
	@MAKELM_CLUSTER=1 .venv/bin/python -m pytest tests/cluster -rs --durations=10 $(ARGS)

test-serve: $(READY) ## servers, asked by many and by a browser, and reports in one; installs what asks, and as root Debian's Chromium
	@.venv/bin/uv sync --locked --quiet --inexact --group serving
	@MAKELM_SERVE=1 .venv/bin/python -m pytest tests/serve -rs --durations=10 $(ARGS)

golden: $(READY) $(PARITY)/.ready ## make anew what tests/test_golden.py compares the model with
	@MAKELM_PARITY_PYTHON=$(CURDIR)/$(PARITY)/bin/python PYTHONPATH=scripts:tests:tests/parity \
	  .venv/bin/python tests/golden/make_golden.py

presets: $(READY) $(PARITY)/.ready ## check presets: size, a short run, transformers, memory; writes docs/presets.md
	@MAKELM_PARITY_PYTHON=$(CURDIR)/$(PARITY)/bin/python PYTHONPATH=$(CURDIR)/scripts \
	  .venv/bin/python tests/presets/run.py
	@.venv/bin/python benchmarks/import_memory.py

bench: $(READY) $(BENCH)/.ready ## speed beside PEERS=<folder with nanoGPT, picodo, nanodo>; the tables of benchmarks/README.md
	@[ -d "$(PEERS)" ] || { echo "PEERS=<folder with checkouts of nanoGPT, picodo and nanodo> is missing" >&2; exit 2; }
	@for name in train_step time_to_quality sampling; do \
	  .venv/bin/python benchmarks/$$name.py --peers "$(PEERS)" $(ARGS) || exit; \
	done
	@for name in products start_up growth; do .venv/bin/python benchmarks/$$name.py $(ARGS) || exit; done

check: $(READY) ## style and lint
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	PATH="$(CURDIR)/.venv/bin:$$PATH" snakefmt --check $(SNAKEFILES)
	.venv/bin/snakemake --lint

lock: $(READY) ## pin the newest packages that pyproject.toml allows; envs/ follows
	.venv/bin/uv lock --upgrade
	.venv/bin/python envs/make_envs.py

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

# Python and venv are all that is assumed; uv installs what uv.lock pins
$(READY): uv.lock pyproject.toml
	@[ -x .venv/bin/uv ] && .venv/bin/python -c '' 2>/dev/null || { \
	  for name in $(PYTHON); do \
	    "$$name" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && found="$$name" && break; \
	  done; \
	  [ -n "$$found" ] || { echo "makelm needs Python 3.11 or newer with venv, and found none (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }; \
	  echo "making .venv with the packages of uv.lock, with $$("$$found" --version)" && \
	  "$$found" -m venv --clear .venv && \
	  .venv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); }
	@.venv/bin/uv sync --locked --quiet --inexact $(EXTRAS)
	@touch $@

$(PARITY)/.ready: tests/parity/requirements.txt $(READY)
	@.venv/bin/python -m venv --clear $(PARITY)
	@$(PARITY)/bin/python -m pip --require-virtualenv install --quiet --disable-pip-version-check -r $<
	@touch $@

$(BENCH)/.ready: benchmarks/requirements.txt tests/parity/requirements.txt $(READY)
	@.venv/bin/python -m venv --clear $(BENCH)
	@$(BENCH)/bin/python -m pip --require-virtualenv install --quiet --disable-pip-version-check -r $<
	@touch $@
