# Doors of the project; `make help` lists them. Every door makes .venv when it is needed.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
BRAINLM := $(BIN)/python -m brainlm_lightning.cli
CONFIG ?= experiments/pretrain.yaml
COHORT ?= ukb
GPUS   ?= auto
NODES  ?= 1
HEAD   ?= localhost:29500
STRATEGY ?= auto
JOBS   ?= $(shell getconf _NPROCESSORS_ONLN)
RUNS   ?= runs
REPORT ?= report
# As many processes as cores, each with one thread; the tests of a file stay together, with what they share.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile
export BRAINLM_DATA ?= stores

.DEFAULT_GOAL := help
.PHONY: help setup demo simulated_task prepare pretrain table1 forecast forecast-abide forecast-ukb reproduce report test test-slow fuzz kills docs check bench tensorboard clean

help:  ## this list
	@grep -E '^[a-z_0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(VENV)/installed  ## make .venv with everything pinned
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup  ## simulate, prepare, pretrain, test: a table of held-out R² beside the best possible (10 minutes, CPU)
	@test -d $(BRAINLM_DATA)/simulated_source || $(BRAINLM) simulate $(BRAINLM_DATA)/simulated_source
	@test -d $(BRAINLM_DATA)/simulated_other_source || $(BRAINLM) simulate $(BRAINLM_DATA)/simulated_other_source --other
	@test -d $(BRAINLM_DATA)/simulated || $(BRAINLM) prepare --config data_manifests/simulated.yaml --jobs $(JOBS)
	@test -d $(BRAINLM_DATA)/simulated_other || $(BRAINLM) prepare --config data_manifests/simulated_other.yaml --jobs $(JOBS)
	$(BRAINLM) fit --config experiments/demo.yaml --runs $(RUNS)
	$(BRAINLM) test --config experiments/demo.yaml --runs $(RUNS)

simulated_task: setup  ## a simulated cohort whose task drives one network, and a model of it, for perturb and attention
	@test -d $(BRAINLM_DATA)/simulated_task_source || \
	  $(BRAINLM) simulate $(BRAINLM_DATA)/simulated_task_source --name simulated_task --task_recordings 200 --seed 2
	@test -d $(BRAINLM_DATA)/simulated_task || $(BRAINLM) prepare --config data_manifests/simulated_task.yaml --jobs $(JOBS)
	$(BRAINLM) fit --config experiments/pretrain_simulated_task.yaml --runs $(RUNS)

prepare: setup  ## prepare a cohort's store:  make prepare COHORT=ukb
	$(BRAINLM) prepare --config data_manifests/$(COHORT).yaml --jobs $(JOBS)

# One process starts the others of its machine; with several machines torchrun does, called on each of them.
LAUNCH = $(if $(filter 1,$(NODES)),$(BIN)/python,$(BIN)/torchrun --nnodes $(NODES) --nproc-per-node $(GPUS) \
  --rdzv-backend c10d --rdzv-endpoint $(HEAD))

pretrain: setup  ## pretrain on a prepared cohort:  make pretrain GPUS=8 COHORT=ukb [CONFIG=…] [NODES=2 HEAD=HOST:PORT, on each]
	$(LAUNCH) -m brainlm_lightning.cli fit --config $(CONFIG) --data.cohorts $(COHORT) --runs $(RUNS) \
	  --trainer.devices $(GPUS) --trainer.num_nodes $(NODES) --trainer.strategy $(STRATEGY)

TABLE1 := $(addprefix table1_,ratio75_1percent ratio75_all ratio90_1percent ratio90_all)

table1: setup  ## the paper's table 1:  make table1 GPUS=8  (four trainings and tests, then the table)
	@for name in $(TABLE1); do for verb in fit test; do \
	  $(BRAINLM) $$verb --config experiments/$$name.yaml --runs $(RUNS) --trainer.devices $(GPUS) \
	    $(TABLE1_OPTIONS) || exit 1; \
	done; done
	$(BRAINLM) report $(addprefix $(RUNS)/,$(TABLE1))

# Fits that have ended are skipped and killed ones go on: the same command finishes what was begun. One that was made
# with other settings or another pretrained model is an error.
FORECASTS := forecast_scratch forecast_kernel_start forecast_lstm forecast_neural_ode forecast_latent_ode forecast

forecast: setup  ## table 3 and figure 4 of the paper on the simulated cohorts, after `make demo` (10 minutes, CPU)
	@for name in $(FORECASTS); do $(BRAINLM) fit --config experiments/$$name.yaml --runs $(RUNS) || exit 1; done
	$(BRAINLM) test --config experiments/forecast.yaml --runs $(RUNS)

FORECASTS_ABIDE := $(addprefix forecast_abide_,without_pretraining kernel_start lstm neural_ode latent_ode) forecast_abide

forecast-abide: setup  ## the same on real recordings, after `make pretrain CONFIG=experiments/pretrain_abide.yaml ...`
	@for name in $(FORECASTS_ABIDE); do $(BRAINLM) fit --config experiments/$$name.yaml --runs $(RUNS) || exit 1; done
	$(BRAINLM) test --config experiments/forecast_abide.yaml --runs $(RUNS)

FORECASTS_UKB := $(foreach frames,forecast_ukb forecast_ukb_40,$(addprefix $(frames)_,without_pretraining lstm neural_ode \
  latent_ode) $(frames))

forecast-ukb: setup  ## the paper's own figure 4 (20 frames) and table 3 (40), after `make pretrain COHORT=ukb` (one GPU)
	@for name in $(FORECASTS_UKB); do $(BRAINLM) fit --config experiments/$$name.yaml --runs $(RUNS) || exit 1; done
	@for name in forecast_ukb forecast_ukb_40; do $(BRAINLM) test --config experiments/$$name.yaml --runs $(RUNS) || exit 1; done

reproduce: setup  ## a whole study, cohort to report:  make reproduce COHORT=simulated OOD=simulated_other
	$(BRAINLM) reproduce --cohort $(COHORT) $(if $(OOD),--ood $(OOD)) --runs $(RUNS) --out $(REPORT) --jobs $(JOBS)

report: setup  ## one page of all runs:  make report [RUNS=runs] [REPORT=report]
	$(BRAINLM) report $(RUNS) --out $(REPORT)

test: setup  ## the tests (CPU, under 10 minutes)
	$(PYTEST) -m 'not slow'

test-slow: setup  ## the slow tests: kills, two ranks, real recordings
	$(BIN)/python -m pytest -m slow

fuzz: setup  ## 2,000 damaged inputs of six kinds: each ends in a message or a right result (10 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz --cases 2000

kills: setup  ## 20 fits and 20 preparations, killed at random and resumed: they end as if never killed
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/kills.py

docs: setup  ## the documentation as a site, site/index.html; warnings and broken links are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict  # with --quiet no warning would be counted

check: setup docs  ## ruff, import-linter, mypy, the documentation, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(PYTEST) -m 'not slow'

bench: setup  ## speed, as ratios measured side by side
	$(BIN)/python -m benchmarks

tensorboard: setup  ## the dashboard of all runs
	$(BIN)/tensorboard --logdir $(RUNS)

clean:  ## remove .venv and caches (never data or runs)
	rm -rf $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
