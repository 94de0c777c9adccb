# make demo         fresh environment, install, train on the census data, evaluate, predict
# make test         fresh environment, install with the `test` extra, run the tests
# make test-parity  the same against PyTorch, JAX and optax (heavy)
# make test-slow    what takes longer than a few seconds, after `make test`
# make docs         the site, in docs/_build/html
# make lint         ruff, cython-lint, mypy, import directions
# PYTHON chooses the interpreter: make test PYTHON=python3.13

PYTHON ?= python3
PIP = -m pip install --quiet --disable-pip-version-check
PYTEST = -m pytest -c ../pyproject.toml --rootdir ..
SOURCES := setup.py pyproject.toml README.md LICENSE $(wildcard src_cython/*) \
           $(wildcard bcenet/*.py bcenet/*.pyi bcenet/*/*.py)
WHEEL = dist/built-for-$(notdir $(PYTHON))

.PHONY: demo test test-slow test-parity docs lint bench annotate sdist clean

# One wheel serves every environment below.
$(WHEEL): $(SOURCES)
	rm -rf dist .venv-build
	$(PYTHON) -m venv .venv-build
	.venv-build/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	touch $@

demo: $(WHEEL)
	rm -rf .venv-demo demo
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/python $(PIP) "$$(ls dist/bcenet-*.whl)[cli]"
	mkdir demo
	.venv-demo/bin/bcenet train examples/adult.csv.gz --target income --seed 1 --model demo/adult.bcenet
	.venv-demo/bin/bcenet evaluate demo/adult.bcenet examples/adult-test.csv.gz
	.venv-demo/bin/bcenet predict demo/adult.bcenet examples/adult-test.csv.gz -o demo/predictions.csv
	head -n 4 demo/predictions.csv

# The tests run from their own folder, on the installed package: the sources are out of sight.
test: $(WHEEL)
	rm -rf .venv-test
	$(PYTHON) -m venv .venv-test
	.venv-test/bin/python $(PIP) "$$(ls dist/bcenet-*.whl)[test]"
	cd tests && ../.venv-test/bin/python $(PYTEST) -q -m "not slow and not parity" .
	cd tests && ../.venv-test/bin/python $(PYTEST) -q --doctest-modules --pyargs bcenet

test-slow:
	cd tests && ../.venv-test/bin/python $(PYTEST) -q -m "slow and not parity" .

# PyTorch is pinned: its newest release on the index brings gigabytes of GPU libraries.
test-parity: $(WHEEL)
	rm -rf .venv-parity
	$(PYTHON) -m venv .venv-parity
	.venv-parity/bin/python $(PIP) torch==2.13.0
	.venv-parity/bin/python $(PIP) "$$(ls dist/bcenet-*.whl)[parity]"
	cd tests && ../.venv-parity/bin/python $(PYTEST) -q -m parity .

# The site, docs/_build/html/index.html; a warning is an error. Sphinx runs in its folder, on the
# installed package, as the tests do.
docs: $(WHEEL)
	rm -rf .venv-docs docs/_build
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python $(PIP) "$$(ls dist/bcenet-*.whl)[docs]"
	cd docs && ../.venv-docs/bin/python -m sphinx -q -W --keep-going -b html . _build/html

lint:
	rm -rf .venv-lint
	$(PYTHON) -m venv .venv-lint
	.venv-lint/bin/python $(PIP) ruff==0.17.6 cython-lint==0.22.1 mypy==2.4.1 import-linter==2.16 "numpy>=2"
	.venv-lint/bin/ruff check .
	.venv-lint/bin/ruff format --check .
	PATH="$$PWD/.venv-lint/bin:$$PATH" cython-lint src_cython examples
	.venv-lint/bin/mypy
	PYTHONPATH=. .venv-lint/bin/lint-imports

bench:
	cd benchmarks && ../.venv-test/bin/python -m pytest -c ../pyproject.toml --benchmark-only --override-ini addopts= .

# Cython's annotated sources, build/cython/**/*.html: no yellow inside a loop of a kernel.
annotate:
	BCENET_ANNOTATE=1 $(PYTHON) setup.py build_ext --inplace --force

sdist:
	$(PYTHON) -m build --sdist

clean:
	rm -rf build dist demo *.egg-info .venv-* bcenet/*.so
	find bcenet/cimports -type l -delete
