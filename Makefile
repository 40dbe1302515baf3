# One command per task; `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
CXX_SOURCES := $(shell git ls-files csrc protos CMakeLists.txt 2>/dev/null)
PACKAGES := tpuserve tokenizer_svc device_svc gateway compiler bench tests models
NATIVE := build/native

.DEFAULT_GOAL := help
.PHONY: help install demo test test-python test-native test-wheel lint format check bench asan aarch64 lock demo-model models-check clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

$(STAMP)-venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "error: $(PYTHON) is older than Python 3.10; name another with PYTHON=…" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Every third-party file is checked against the hash in the lock; the project itself is then built
# without build isolation, so that its build tools come from the same lock.
$(STAMP)-requirements: requirements/dev.txt $(STAMP)-venv
	@echo "installing the locked requirements"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(STAMP)-installed: pyproject.toml $(CXX_SOURCES) $(STAMP)-requirements
	@echo "building tpuserve"
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --no-build-isolation --no-deps --editable .
	@touch $@

install: $(STAMP)-installed ## Make .venv and install the project into it, editable

demo: install ## Serve the demo model on the emulator and ask it two questions; ONCE=1 exits afterwards
	@$(BIN)/tpuserve demo --model models/demo $(if $(filter 1,$(ONCE)),--once)

emulator: install
	@$(BIN)/tpuserve emulator install

test: test-python test-native ## Run all tests, Python and C++

test-python: install emulator ## Run the Python tests; ARGS="-k name" narrows
	$(BIN)/pytest $(ARGS)

$(NATIVE)/build.ninja: CMakeLists.txt $(STAMP)-requirements
	PATH="$(abspath $(BIN)):$$PATH" cmake --preset dev -B $(NATIVE)

test-native: $(NATIVE)/build.ninja emulator ## Run the C++ tests
	PATH="$(abspath $(BIN)):$$PATH" cmake --build $(NATIVE)
	TPUSERVE_EMULATOR_DIR="$$($(BIN)/tpuserve emulator path)" PATH="$(abspath $(BIN)):$$PATH" \
	  ctest --test-dir $(NATIVE) --output-on-failure

asan: install emulator ## Run the C++ tests under AddressSanitizer and UBSan
	PATH="$(abspath $(BIN)):$$PATH" cmake --preset asan
	PATH="$(abspath $(BIN)):$$PATH" cmake --build --preset asan
	TPUSERVE_EMULATOR_DIR="$$($(BIN)/tpuserve emulator path)" PATH="$(abspath $(BIN)):$$PATH" ctest --preset asan

aarch64: install ## Cross-compile for a SoC's Arm cores; with qemu-user also test what needs no vendor library
	PATH="$(abspath $(BIN)):$$PATH" cmake --preset aarch64
	PATH="$(abspath $(BIN)):$$PATH" cmake --build --preset aarch64
	if command -v qemu-aarch64 >/dev/null; then PATH="$(abspath $(BIN)):$$PATH" ctest --preset aarch64; fi

test-wheel: install ## Build a wheel, install it elsewhere and use it from another directory
	PATH="$(abspath $(BIN)):$$PATH" tests/wheel/check.sh $(abspath $(BIN))/python

lint: install ## Formatters and type checkers, changing nothing
	$(BIN)/ruff check $(wildcard $(PACKAGES))
	$(BIN)/ruff format --check $(wildcard $(PACKAGES))
	$(BIN)/mypy
	git ls-files 'csrc/*.h' 'csrc/*.cc' | xargs $(BIN)/clang-format --dry-run --Werror
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code

format: install ## Let the formatters change the files
	$(BIN)/ruff check --fix $(wildcard $(PACKAGES))
	$(BIN)/ruff format $(wildcard $(PACKAGES))
	git ls-files 'csrc/*.h' 'csrc/*.cc' | xargs $(BIN)/clang-format -i
	$(BIN)/buf format --write

check: lint test test-wheel ## What must hold before a change lands

bench: install emulator ## Measure and print the report
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m bench

demo-model: install ## Rebuild the demo model's bmodels from its weights
	$(BIN)/python -m models.demo.build

models-check: install emulator ## Build every model family small, serve it and compare it; MODELS="qwen3 llama3" narrows
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m models.check $(MODELS)

lock: $(STAMP)-venv ## Resolve the requirements again
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.10 --generate-hashes \
	  --no-header --no-annotate --output-file requirements/dev.txt

clean: ## Remove everything that was made here
	rm -rf $(VENV) build dist
