# make test      fresh environment, install with the `test` extra, run the tests
# make demo      fresh environment, install, train on the census data, evaluate, predict
# The environments are in .venv-*; PYTHON chooses the interpreter.

PYTHON ?= python3
VENV_TEST = .venv-test
VENV_PARITY = .venv-parity
VENV_LINT = .venv-lint
VENV_DEMO = .venv-demo

.PHONY: test test-slow test-parity lint demo annotate bench dist clean

# Tests run on the installed package, from a folder without the sources beside it.
test:
	rm -rf $(VENV_TEST)
	$(PYTHON) -m venv $(VENV_TEST)
	$(VENV_TEST)/bin/python -m pip install --quiet ".[test]"
	cd tests && ../$(VENV_TEST)/bin/python -m pytest -c ../pyproject.toml --rootdir .. -m "not slow and not parity" .
	cd tests && ../$(VENV_TEST)/bin/python -m pytest -c ../pyproject.toml --rootdir .. --doctest-modules --pyargs bcenet

# What takes longer than a few seconds; after `make test`.
test-slow:
	cd tests && ../$(VENV_TEST)/bin/python -m pytest -c ../pyproject.toml --rootdir .. -m slow .

# Against PyTorch, JAX and optax: heavy, and not needed to use bcenet.
# PyTorch is pinned to the build without CUDA packages where an index offers one.
test-parity:
	rm -rf $(VENV_PARITY)
	$(PYTHON) -m venv $(VENV_PARITY)
	$(VENV_PARITY)/bin/python -m pip install --quiet torch==2.13.0
	$(VENV_PARITY)/bin/python -m pip install --quiet ".[parity]"
	cd tests && ../$(VENV_PARITY)/bin/python -m pytest -c ../pyproject.toml --rootdir .. -m parity .

lint:
	test -x $(VENV_LINT)/bin/ruff || $(PYTHON) -m venv $(VENV_LINT)
	$(VENV_LINT)/bin/python -m pip install --quiet ruff==0.17.6 cython-lint==0.22.1 mypy==2.4.1 import-linter==2.16 "numpy>=2"
	PATH=$(VENV_LINT)/bin:$$PATH ruff check .
	PATH=$(VENV_LINT)/bin:$$PATH ruff format --check .
	PATH=$(VENV_LINT)/bin:$$PATH cython-lint src_cython
	PATH=$(VENV_LINT)/bin:$$PATH mypy
	PYTHONPATH=. $(VENV_LINT)/bin/lint-imports

demo:
	rm -rf $(VENV_DEMO) demo
	$(PYTHON) -m venv $(VENV_DEMO)
	$(VENV_DEMO)/bin/python -m pip install --quiet ".[cli]"
	mkdir demo
	$(VENV_DEMO)/bin/bcenet train examples/adult.csv.gz --target income --model demo/adult.bcenet
	$(VENV_DEMO)/bin/bcenet evaluate demo/adult.bcenet examples/adult-test.csv.gz
	$(VENV_DEMO)/bin/bcenet predict demo/adult.bcenet examples/adult-test.csv.gz -o demo/predictions.csv
	head -n 4 demo/predictions.csv

# Cython's annotated sources: no yellow inside a loop of a kernel.
annotate:
	BCENET_ANNOTATE=1 $(PYTHON) setup.py build_ext --inplace --force

dist:
	$(PYTHON) -m build

clean:
	rm -rf build dist demo *.egg-info .venv-* bcenet/*.so
