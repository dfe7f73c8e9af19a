# Everything runs inside a virtual environment of its own; nothing outside the checkout changes.
#   make example VENV=/somewhere PYTHON=python3.12     another place, another Python
#   make speed DATA=imagenet/val WEIGHTS=deit_tiny.safetensors SPEED_ARGS="--rounds 100"
#   make table1 DATA=imagenet/val ARGS="model=deit_small device=cuda"
#   make test JOBS=4 PYTEST_ARGS="-k record"           more processes, fewer tests

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 1
PYTEST_ARGS ?=
DATA ?=
WEIGHTS ?=
SPEED_ARGS ?=
ARGS ?=
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help example video vlm speed speed-methods tables table1 table2 table3 table4 table7 table8 table9 fig6 fig8 alpha readings controls dev test lint types check format clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.core

example: $(VENV)/.core ## install, then compare four methods on the bundled example (offline)
	$(BIN)/asap-eval

$(VENV)/.video: pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) -e '.[video]'
	@touch $@ $(VENV)/.core

video: $(VENV)/.video ## make clips of moving shapes, train a head on them, run table3 (offline)
	test -d build/shapes/val || $(BIN)/python examples/moving_shapes.py --out build/shapes
	head=$$($(BIN)/asap-eval stage=train model=digits_vit bench=kinetics data=build/shapes \
		results=build/video train.epochs=30 train.lr=0.01 | tail -n 1) && \
	$(BIN)/asap-eval experiment=table3 model=digits_vit data=build/shapes results=build/video \
		bench.head=$$head limit=96 sample=spread $(ARGS)
	$(BIN)/asap-eval-strip build/shapes/val/ring/0000.mp4 --model digits_vit --method asap --k 3 \
		--out build/video/ring.png --animate build/video/ring.gif

$(VENV)/.vlm: pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) -e '.[vlm]'
	@touch $@ $(VENV)/.core

vlm: $(VENV)/.vlm ## make questions about drawn shapes, answer them with a small untrained LLaVA (offline)
	test -d build/questions || $(BIN)/python examples/vlm_questions.py --out build/questions
	HF_HUB_OFFLINE=1 $(BIN)/asap-eval model=llava_tiny bench=vlm data=build/questions \
		results=build/vlm method=visionzip budget=tokens target=64 budget.samples=8 \
		bench.new_tokens=8 batch_size=4 $(ARGS)

speed: $(VENV)/.core ## cost of the walk, share of the ideal, peak memory: DATA=<folder> [WEIGHTS=<file>]
	$(if $(DATA),,$(error give DATA=<folder with one folder per class>))
	$(BIN)/python benchmarks/speed.py --data $(DATA) $(if $(WEIGHTS),--weights $(WEIGHTS)) $(SPEED_ARGS)

define EXPERIMENT
	$(if $(DATA),,$(error give DATA=<folder with one folder per class>))
	$(BIN)/asap-eval experiment=$@ data=$(DATA) $(if $(WEIGHTS),weights=$(WEIGHTS)) $(ARGS)
endef

table1: $(VENV)/.core ## every method of the paper's Table 1, and controls: DATA=<folder> [WEIGHTS=<file>] [ARGS=...]
	$(EXPERIMENT)

table2: $(VENV)/.core ## a random anchor against the sink: DATA=...
	$(EXPERIMENT)

table3: $(VENV)/.video ## Kinetics-400, CLIP ViT-L/14: DATA=<folder> ARGS=bench.head=<file>
	$(EXPERIMENT)

table4: $(VENV)/.vlm ## latency of LLaVA-1.5: DATA=<folder of POPE> ARGS=device=cuda
	$(EXPERIMENT)

table8: $(VENV)/.vlm ## latency of LLaVA-NeXT: DATA=...
	$(EXPERIMENT)

table9: $(VENV)/.vlm ## what ASAP's stages cost and save in LLaVA-NeXT: DATA=...
	$(EXPERIMENT)

table7: $(VENV)/.core ## what the walk costs in time: DATA=...
	$(EXPERIMENT)

fig6: $(VENV)/.core ## bins K and threshold tau, DeiT-Base: DATA=...
	$(EXPERIMENT)

fig8: $(VENV)/.core ## bins K and threshold tau, ViT-AugReg: DATA=...
	$(EXPERIMENT)

alpha: $(VENV)/.core ## the walk's alpha (Appendix J): DATA=...
	$(EXPERIMENT)

readings: $(VENV)/.core ## every reading of ASAP's open choices: DATA=... ARGS=model=<name>
	$(EXPERIMENT)

controls: $(VENV)/.core ## controls at one MACs budget: DATA=... ARGS=model=<name>
	$(EXPERIMENT)

tables: $(VENV)/.core ## the tables in results/, from the records in results/
	for name in table1 table2 readings controls fig6 alpha; do \
		$(BIN)/asap-report results/deit_tiny --experiment $$name --model deit_tiny \
			--format markdown --out results/$$name.md || exit 1; done
	for name in fig7 spearman; do \
		$(BIN)/asap-report results/walk --experiment $$name --model deit_tiny \
			--format markdown --out results/$$name.md || exit 1; done
	$(BIN)/asap-report results/saliency --format markdown --out results/saliency.md
	$(BIN)/asap-report results/walk --claims --clustering benchmarks/clustering-cpu-float32.json \
		--format markdown --out results/claims.md

speed-methods: $(VENV)/.core ## speed-up and share of the ideal of every method: DATA=<folder> [WEIGHTS=<file>]
	$(if $(DATA),,$(error give DATA=<folder with one folder per class>))
	$(BIN)/python benchmarks/methods.py --data $(DATA) $(if $(WEIGHTS),--weights $(WEIGHTS)) $(SPEED_ARGS)

dev: $(VENV)/.dev ## install with every extra and the developers' tools

test: $(VENV)/.dev ## all tests, offline
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest \
		$(if $(filter-out 1,$(JOBS)),-n $(JOBS)) $(PYTEST_ARGS)

lint: $(VENV)/.dev ## rules and layout of the code (ruff)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## types (mypy)
	$(BIN)/mypy

check: lint types test ## what CI runs: lint, types, tests

format: $(VENV)/.dev ## rewrite the code in the agreed layout
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment and everything built
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
