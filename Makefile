# Doors of the project; `make help` lists them. Every door makes .venv when it is needed.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
BRAINLM := $(BIN)/python -m brainlm_lightning.cli
CONFIG ?= experiments/pretrain.yaml
COHORT ?= ukb
GPUS   ?= auto
JOBS   ?= $(shell getconf _NPROCESSORS_ONLN)
RUNS   ?= runs
export BRAINLM_DATA ?= stores

.DEFAULT_GOAL := help
.PHONY: help setup demo simulated_task prepare pretrain table1 forecast forecast-abide test test-slow fuzz kills check bench tensorboard clean

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

pretrain: setup  ## pretrain on a prepared cohort:  make pretrain GPUS=8 COHORT=ukb [CONFIG=experiments/....yaml]
	$(BRAINLM) fit --config $(CONFIG) --trainer.devices $(GPUS) --data.cohorts $(COHORT)

table1: setup  ## the paper's table 1:  make table1 GPUS=8 COHORT=ukb  (four trainings and tests, then the table)
	@for ratio in 0.75 0.90; do for data in 1.0:1 0.01:100; do \
	  options="--config experiments/table1.yaml --experiment table1_hidden$${ratio}_subjects$${data%:*} --runs $(RUNS) \
	    --data.cohorts $(COHORT) --data.train_fraction $${data%:*} --data.windows_per_recording $${data#*:} \
	    --model.init_args.masking.ratio $$ratio --trainer.devices $(GPUS) $(TABLE1_OPTIONS)"; \
	  $(BRAINLM) fit $$options && $(BRAINLM) test $$options || exit 1; \
	done; done
	$(BRAINLM) report $(RUNS)/table1_*

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

test: setup  ## the tests (CPU, under 10 minutes)
	$(BIN)/python -m pytest -m 'not slow'

test-slow: setup  ## the slow tests: kills, two ranks, real recordings
	$(BIN)/python -m pytest -m slow

fuzz: setup  ## 2,000 damaged inputs of six kinds: each ends in a message or a right result (10 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz --cases 2000

kills: setup  ## 20 fits and 20 preparations, killed at random and resumed: they end as if never killed
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/kills.py

check: setup  ## ruff, import-linter, mypy, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python -m pytest -m 'not slow'

bench: setup  ## speed, as ratios measured side by side
	$(BIN)/python -m benchmarks

tensorboard: setup  ## the dashboard of all runs
	$(BIN)/tensorboard --logdir $(RUNS)

clean:  ## remove .venv and caches (never data or runs)
	rm -rf $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
