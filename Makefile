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
ONLY ?=
SHARED ?= ../shared
RESULTS ?= results
OUT ?= results
FORMAT ?= markdown
MAPS ?= docs/keepmaps
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check

# One target for each file in conf/experiment; what it needs to be installed, its text says.
EXPERIMENTS := $(filter-out example,$(basename $(notdir $(wildcard conf/experiment/*.yaml))))
extra = $(if $(shell grep -l llava conf/experiment/$1.yaml),vlm,$(if $(shell grep -l kinetics conf/experiment/$1.yaml),video,core))

# Other figures of the paper that show the same.
KEEPMAPS := fig1 fig3 fig10 fig11 fig12 fig13 fig14

.DEFAULT_GOAL := help
.PHONY: $(EXPERIMENTS) help example video vlm fig9 speed speed-methods speed-video tables check-tables paper audit pictures fig4 fig5 $(KEEPMAPS) smoke report screenshots dev test lint types check format clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Experiments: DATA=<folder> [WEIGHTS=<file>] [ARGS=...]"
	@awk '/^ *title: / { name = FILENAME; sub(/.*\//, "", name); sub(/[.]yaml/, "", name); sub(/^ *title: /, ""); \
		printf "  make %-13s %s\n", name, $$0; nextfile }' $(EXPERIMENTS:%=conf/experiment/%.yaml)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.dev $(VENV)/.video $(VENV)/.vlm: $(VENV)/.%: pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) -e '.[$*]'
	@touch $@ $(VENV)/.core

example: $(VENV)/.core ## install, then compare four methods on the bundled example (offline)
	$(BIN)/asap-eval

video: $(VENV)/.video ## make clips of moving shapes, train a head on them, run table3 (offline)
	test -d build/shapes/val || $(BIN)/python examples/moving_shapes.py --out build/shapes
	head=$$($(BIN)/asap-eval stage=train model=digits_vit bench=kinetics data=build/shapes \
		results=build/video train.epochs=30 train.lr=0.01 | tail -n 1) && \
	$(BIN)/asap-eval experiment=table3 model=digits_vit data=build/shapes results=build/video \
		bench.head=$$head limit=96 sample=spread speed=true $(ARGS)
	$(BIN)/asap-eval strip build/shapes/val/ring/0000.mp4 --model digits_vit --method asap --k 3 \
		--side 96 --out build/video/ring.png --animate build/video/ring.gif

vlm: $(VENV)/.vlm ## make questions about drawn shapes, answer them with a small untrained LLaVA (offline)
	test -d build/questions || $(BIN)/python examples/vlm_questions.py --out build/questions
	HF_HUB_OFFLINE=1 $(BIN)/asap-eval model=llava_tiny bench=vlm data=build/questions \
		results=build/vlm method=visionzip budget=tokens target=64 budget.samples=8 \
		bench.new_tokens=8 batch_size=4 $(ARGS)

fig9: $(VENV)/.vlm ## pictures of answers fixed and broken: RESULTS=<folder of bench=vlm> [ARGS="task=pope most=8 ..."]
	$(BIN)/asap-eval cases results=$(RESULTS) out=build/cases $(ARGS)

speed: $(VENV)/.core ## cost of the walk, share of the ideal, peak memory: DATA=<folder> [WEIGHTS=<file>]
	$(if $(DATA),,$(error give DATA=<folder with one folder per class>))
	$(BIN)/python benchmarks/speed.py --data $(DATA) $(if $(WEIGHTS),--weights $(WEIGHTS)) $(SPEED_ARGS)

.SECONDEXPANSION:
$(EXPERIMENTS): $(VENV)/.$$(call extra,$$@)
	$(if $(DATA),,$(error give DATA=<folder with one folder per class>))
	$(BIN)/asap-eval experiment=$@ data=$(DATA) $(if $(WEIGHTS),weights=$(WEIGHTS)) $(ARGS)

smoke: $(VENV)/.dev ## every experiment that can run here, on a few samples, into build/smoke: [SHARED=../shared] [ONLY=...]
	OMP_NUM_THREADS=1 $(BIN)/python examples/smoke.py --out build/smoke --shared $(SHARED) $(ONLY)

report: $(VENV)/.core ## tables, pictures and one page of RESULTS=results, into build/report
	$(BIN)/asap-eval report pictures results=$(RESULTS) out=build/report/pictures
	$(BIN)/asap-eval report $(RESULTS) --format markdown --out build/report/tables.md
	$(BIN)/asap-eval report html results=$(RESULTS) out=build/report/index.html $(if $(MAPS),maps=$(MAPS)) \
		clustering=benchmarks/clustering-cpu-float32.json

screenshots: report $(VENV)/.dev ## pictures of that page for docs/ (needs Chromium)
	$(BIN)/python docs/screenshots.py build/report/index.html docs

tables: $(VENV)/.core ## the tables in results/, from the records in results/
	for name in table1 readings controls; do \
		$(BIN)/asap-eval report results/deit_tiny --experiment $$name --model deit_tiny \
			--beside results/deit_tiny_training --format markdown --out $(OUT)/$$name.md || exit 1; done
	$(BIN)/asap-eval report results/deit_tiny --experiment zoo_image --model deit_tiny \
		--format markdown --out $(OUT)/zoo_image.md
	for name in table2 fig6 alpha; do \
		$(BIN)/asap-eval report results/deit_tiny_training --experiment $$name --model deit_tiny \
			--format markdown --out $(OUT)/$$name.md || exit 1; done
	for name in fig7 spearman; do \
		$(BIN)/asap-eval report results/walk --experiment $$name --model deit_tiny \
			--format markdown --out $(OUT)/$$name.md || exit 1; done
	$(BIN)/asap-eval report results/video --experiment table3 --model digits_vit \
		--format markdown --out $(OUT)/table3.md
	$(BIN)/asap-eval report results/saliency --format markdown --out $(OUT)/saliency.md
	$(BIN)/asap-eval report results --claims --clustering benchmarks/clustering-cpu-float32.json \
		--format markdown --out $(OUT)/claims.md

paper: $(VENV)/.core ## the paper's tables beside the records: RESULTS=<folder> OUT=<folder> FORMAT=markdown|csv|latex
	$(BIN)/asap-eval report all results=$(RESULTS) format=$(FORMAT) out=$(OUT)/paper

audit: $(VENV)/.core ## what of the paper does not recompute, or contradicts itself
	$(BIN)/asap-eval report audit

check-tables: $(VENV)/.core ## fails where a table in results/ is not what its records give
	new=$$(mktemp -d) && trap 'rm -rf "$$new"' EXIT && $(MAKE) --no-print-directory tables OUT="$$new" && \
	for table in "$$new"/*.md; do cmp "$$table" "results/$$(basename "$$table")" || \
		{ echo "results/$$(basename "$$table") is stale: run make tables and commit it"; exit 1; }; done

fig4: keepmaps ## keep-maps of images, as keepmaps; so are fig1 fig3 fig10 fig11 fig12 fig13 fig14: DATA=<folder>
$(KEEPMAPS): keepmaps

fig5: video ## keep-maps over the frames of a clip, as video makes them

pictures: $(VENV)/.core ## the pictures in docs/figures, from the records in results/
	$(BIN)/asap-eval report pictures results=results out=docs/figures

speed-methods: $(VENV)/.core ## speed-up and share of the ideal of every method: DATA=<folder> [WEIGHTS=<file>]
	$(if $(DATA),,$(error give DATA=<folder with one folder per class>))
	$(BIN)/python benchmarks/methods.py --data $(DATA) $(if $(WEIGHTS),--weights $(WEIGHTS)) $(SPEED_ARGS)

speed-video: $(VENV)/.video ## decoding against encoding, one clip through CLIP ViT-L/14: DATA=<folder> [WEIGHTS=<file>]
	$(if $(DATA),,$(error give DATA=<folder of videos>))
	$(BIN)/python benchmarks/video.py --data $(DATA) $(if $(WEIGHTS),--weights $(WEIGHTS)) $(SPEED_ARGS)

dev: $(VENV)/.dev ## install with every extra and the developers' tools

test: $(VENV)/.dev ## all tests, offline
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest \
		$(if $(filter-out 1,$(JOBS)),-n $(JOBS) --dist worksteal) $(PYTEST_ARGS)

lint: $(VENV)/.dev ## rules and layout of the code (ruff)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## types (mypy)
	$(BIN)/mypy

check: lint types check-tables test ## what CI runs: lint, types, tables as committed, tests

format: $(VENV)/.dev ## rewrite the code in the agreed layout
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove the environment and everything built
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
