# Thin: every target is one command that also works without make.
PY := .venv/bin/python
UV_VERSION := 0.13.8
UV := $(shell command -v uv || (test -x .uv/bin/uv && echo .uv/bin/uv))
ARGS ?=
IMAGE ?= slmpack:dev
BUILDER ?= $(firstword $(foreach it,docker podman buildah,$(if $(shell command -v $(it)),$(it))))

.DEFAULT_GOAL := help
.PHONY: help init demo test test-engine test-gpu check fix crds chart golden bench cluster lock image test-image

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

init: .venv/.ready ## make .venv with everything (once)

.venv/.ready: requirements.lock pyproject.toml
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "slmpack needs Python 3.11 or newer as python3"; exit 1; }
	@test -n "$(UV)" || { echo "installing uv $(UV_VERSION) into .uv"; \
		python3 -m venv .uv && .uv/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); }
	@echo "installing the locked dependencies into .venv"
	@set -e; UV=$(or $(UV),.uv/bin/uv); $$UV venv --quiet --allow-existing .venv; \
		$$UV pip sync --quiet --require-hashes requirements.lock; $$UV pip install --quiet --no-deps --editable .
	@touch $@

demo: init ## a cluster without GPUs or Kubernetes, the operator, and the packing, live; Ctrl-C ends it, outside a terminal it ends by itself (ARGS=--once, --help)
	@$(PY) -m slmpack demo $(ARGS)

test: init ## every test, the real control plane included
	@$(PY) -m tests.support.control_plane build
	@$(PY) -m tests.support.prometheus build
	@$(PY) -m tests.support.kube_score build
	@$(PY) -m tests.support.helm build
	@$(PY) -m tests.support.browser install
	@$(PY) -m tests.support.gitops build
	@$(PY) -m pytest -q -n 2 --cov --cov-branch --cov-report=term tests/unit tests/repo $(ARGS)
	@$(PY) -m pytest -q -n 2 tests/supervisor tests/gitops $(ARGS)
	@$(PY) -m pytest -q -n 0 tests/browser $(ARGS)
	@$(PY) -m pytest -q -n 0 tests/controlplane $(ARGS)
	@$(PY) -m pytest -q -n 2 tests/docs $(ARGS)

test-engine: init ## a real vLLM by the rendered command line (opt-in: 5 GB once, a quarter of an hour)
	@$(PY) -m tests.engine.environment
	@$(PY) -m pytest -q -n 0 tests/engine $(ARGS)

test-gpu: ## what a real GPU says about limits and detection (opt-in: an NVIDIA GPU; no package, no network)
	@$(or $(wildcard $(PY)),python3) -S -m tests.gpu $(ARGS)

test-image: init ## build the images with buildah and run them in a chroot (opt-in: root, minutes)
	@$(PY) -m tests.image $(ARGS)

check: init ## lint, types, imports, generated files in sync
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@$(PY) -m pytest -q tests/repo

fix: init ## format and mend what the linter can
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

crds: init ## write crds/ and docs/crd.md from the models
	@$(PY) -m slmpack.api.crd > crds/slmdeployments.slmpack.dev.yaml
	@$(PY) -m slmpack.api.crd_page > docs/crd.md

chart: init ## write what the chart holds of the CRD, the permissions, the rules, the dashboards and its values
	@$(PY) -m tests.support.chart_files
	@$(PY) -m monitoring.dashboards

golden: init ## write the golden manifests anew
	@$(PY) -m pytest -q tests/unit/render tests/unit/cli/test_estimate_docs.py tests/unit/cli/test_explain_docs.py tests/docs/test_counts.py --update-golden
	@$(PY) -m tests.gitops.generated

bench: init ## print the benchmarks' figures
	@$(PY) -m benchmarks $(ARGS)

cluster: init ## the real control plane with GPU nodes; prints the export line (Ctrl-C ends it)
	@$(PY) -m tests.support.cluster $(ARGS)

image: ## build the operator's image with docker, podman or buildah (IMAGE=name:tag)
	@test -n "$(BUILDER)" || { echo "make image needs docker, podman or buildah"; exit 1; }
	@$(BUILDER) build $(if $(filter docker,$(BUILDER)),,--ignorefile images/operator/Dockerfile.dockerignore) \
		--file images/operator/Dockerfile --tag $(IMAGE) --build-arg REVISION=$$(git rev-parse HEAD) \
		--build-arg VERSION=$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) $(ARGS) .

lock: init ## resolve the dependencies anew (hashes, no addresses)
	@set -e; UV=$(or $(UV),.uv/bin/uv); $$UV lock --quiet; \
		$$UV export --quiet --frozen --all-groups --no-emit-project --no-annotate --no-header --format requirements-txt --output-file requirements.lock; \
		$$UV export --quiet --frozen --no-dev --no-emit-project --no-annotate --no-header --format requirements-txt --output-file images/operator/requirements.lock; \
		$$UV export --quiet --frozen --only-group image --no-emit-project --no-annotate --no-header --format requirements-txt --output-file images/operator/build.lock
