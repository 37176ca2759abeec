# Every target does its own set-up: a virtual environment in .venv, packages from PyPI, and on Debian
# as root the system packages that are missing. A second run repeats only what has changed.
#
#   CXX=clang++-17 make test     another compiler      PYTHON=python3.13 make demo   another Python
#   CI=true make test            warnings are errors   TORCH=2.13.0 make test        with PyTorch of that version

PYTHON ?= python3
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
# Warnings are errors in CI; a build folder that was made so stays so: changing it compiles everything again.
built_werror := $(shell sed -n 's/^BETATRON_WERROR:[A-Z]*=//p' build/CMakeCache.txt 2>/dev/null)
WERROR := $(if $(CI),ON,$(or $(built_werror),OFF))

export PYTHON
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)
export CCACHE_BASEDIR := $(CURDIR)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

build_inputs := CMakeLists.txt pyproject.toml $(shell find src cmake -type f)
test_setup := .venv/.test $(if $(TORCH),.venv/.torch-$(TORCH))
# The narrowest and the widest vectors: enough for the sanitizers, half of the compile time.
sanitize_isas := $(if $(filter x86_64,$(shell uname -m)),-DBETATRON_ISAS='v2;v4')

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-cpp sanitize clang cuda test-python reference package bench conformance docs format \
        lint clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 20

demo: package ## track the HTU beamline with a million particles: tables and pictures, in htu-results/
	python examples/htu/htu.py --overwrite

test: package $(test_setup) ## everything CI runs: C++, sanitizers, device code, Python, reference cases
	@MAKE="$(MAKE)" python tools/run_tests.py test-cpp sanitize cuda test-python reference

test-cpp: package .venv/.test ## C++ tests and the installed C++ example
	cmake -B build -DBETATRON_TESTS=ON
	cmake --build build
	ctest --test-dir build --output-on-failure --parallel $(JOBS)

sanitize: .venv/.test ## C++ tests with address and undefined-behaviour sanitizers, by Clang if it is there
	cmake -B build-sanitize -G Ninja -DCMAKE_BUILD_TYPE=None -DBETATRON_TESTS=ON \
	  -DBETATRON_SANITIZE=address,undefined -DBETATRON_CUDA=OFF -DBETATRON_WERROR=$(WERROR) \
	  -DCMAKE_CXX_COMPILER="$$(tools/sanitizer_compiler.sh)" $(sanitize_isas)
	cmake --build build-sanitize
	ctest --test-dir build-sanitize --output-on-failure --parallel $(JOBS)

clang: .venv/.test ## C++ tests of an optimised build by Clang
	cmake -B build-clang -G Ninja -DBETATRON_TESTS=ON -DBETATRON_CUDA=OFF \
	  -DBETATRON_WERROR=$(WERROR) -DCMAKE_CXX_COMPILER="$$(tools/sanitizer_compiler.sh clang)"
	cmake --build build-clang
	ctest --test-dir build-clang --output-on-failure --parallel $(JOBS)

cuda: package ## compile the device code, where nvcc is installed
	@if command -v nvcc >/dev/null; then cmake --build build --target betatron_cuda; \
	 else echo "SKIPPED: nvcc is not installed; device code not compiled"; fi

test-python: package $(test_setup) ## Python tests
	python -m pytest --numprocesses $(JOBS) tests/python

reference: package ## physics against known results
	python tests/reference/run.py tests/reference/cases.json

package: build/.package-$(WERROR) ## build the C++ core and install the Python package into .venv

bench: package .venv/.bench ## benchmarks, against xtrack, PyAT and Cheetah
	cmake -B build -DBETATRON_BENCHMARKS=ON
	cmake --build build
	@set -e; for program in $$(find build/benchmarks -maxdepth 1 -type f -executable) ; do \
	  echo "== $$program"; "$$program"; done
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; python "$$script"; done

conformance: package .venv/.bench ## every element and model against other codes; writes docs/conformance.md
	python tests/conformance/matrix.py --page docs/conformance.md --json docs/conformance.json

docs: package .venv/.docs ## the documentation, into site/
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

format: .venv/.dev ## format C++ and Python sources in place
	git ls-files -co --exclude-standard '*.h' '*.cpp' '*.cu' '*.cuh' | xargs -r clang-format -i
	ruff format .
	ruff check --fix-only .

lint: .venv/.dev ## what `make format` would change, and what ruff finds
	git ls-files -co --exclude-standard '*.h' '*.cpp' '*.cu' '*.cuh' | xargs -r clang-format -n -Werror
	ruff format --diff .
	ruff check .

clean: ## remove everything that was built, the virtual environment too
	rm -rf .venv build build-sanitize build-clang site .pytest_cache .hypothesis .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- Set-up: each stamp file says that its step is done --------------------------------------------

# BETATRON_TESTS and BETATRON_BENCHMARKS are not named here: once another target has switched them on
# they stay on in the same build folder, and nothing is compiled twice.
build/.package-$(WERROR): $(build_inputs) .venv/.run
	pip install --verbose --no-build-isolation --no-deps --config-settings build-dir=build \
	  --config-settings cmake.define.BETATRON_WERROR=$(WERROR) --editable .
	@touch $@

.venv/.python: tools/system_packages.sh
	tools/system_packages.sh build
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@touch $@

.venv/.run: .venv/.python pyproject.toml tools/requirements.py
	python tools/requirements.py build project dev | xargs -d '\n' pip install --quiet
	@touch $@

.venv/.test: .venv/.run
	tools/system_packages.sh test
	python tools/requirements.py test | xargs -d '\n' pip install --quiet
	@touch $@

.venv/.torch-%: .venv/.run
	pip install --quiet torch==$*
	@touch $@

.venv/.bench .venv/.docs: .venv/.%: .venv/.run
	python tools/requirements.py $* | xargs -d '\n' pip install --quiet
	@touch $@

.venv/.dev: .venv/.run
	@touch $@
