# The two commands of a fresh machine: `make local` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(firstword $(foreach python,python3.11 python3.12 python3.13 python3,$(shell command -v $(python) 2>/dev/null)))
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Debian packages that the lab runs as they are: the nodes' own sshd, container runtime, filesystem and firewall tools.
LAB_PACKAGES := containerd runc containernetworking-plugins openssh-server openssh-client xfsprogs e2fsprogs nftables iproute2 kmod libnuma1 python3-venv
# What `lab up --vm` needs: the emulator, and what its image is made with.
VM_PACKAGES := qemu-system-x86 qemu-utils mmdebstrap e2fsprogs fdisk lz4 openssh-client iproute2 python3-venv
# Whom bench-sync compares with, what sees which files are read, and the network of bench-fanout.
BENCH_PACKAGES := curl aria2 strace iproute2
# What the drills of faults-sync kill and fail a sync with, and make small filesystems with.
DRILL_PACKAGES := strace xfsprogs e2fsprogs mount
# The browser that the report of `judge report` is looked at with.
BROWSER_PACKAGES := chromium fonts-dejavu-core
# Kubernetes binaries without a download, where an archive of them lies beside the checkout.
ifneq ($(wildcard $(CURDIR)/../shared/kube/kube-1.36.3-linux-amd64.tar.xz),)
export JUDGE_BOOTSTRAP_KUBE_ARCHIVE ?= $(CURDIR)/../shared/kube/kube-1.36.3-linux-amd64.tar.xz
endif
export SCALE ?= small

PYTEST := $(BIN)/python -m pytest
# Not installed by `make`: Debian has no package of either.
TERRAFORM := $(firstword $(foreach program,terraform tofu,$(shell command -v $(program) 2>/dev/null)))
# For suites whose files have nothing in common: one process a core. The tests of a file stay together, in their order.
PARALLEL := -n auto --dist loadfile
MOLECULE_SCENARIOS := nvme nvme_vm model_cache vllm_k8s site
# Every figure that exists so far (attacks V2, bench-cli P9, bench-fanout P10, bench-judge P8, bench-nvme P5 to P7,
# bench-sync P1 to P4, faults-config R8, faults-input R12, faults-judge V1 and V3, faults-k8s R7 and R10, faults-nvme R1
# and R2, faults-run R9, faults-secrets R6, faults-sync R3 to R5).
FIGURES := attacks bench-cli bench-fanout bench-judge bench-nvme bench-sync faults-config faults-input faults-judge \
	faults-k8s faults-nvme faults-run faults-secrets faults-sync

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z_-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- set-up -----------------------------------------------------------------------------------------------------------

$(BIN)/.installed: pyproject.toml constraints.txt hatch_build.py
	@test -n "$(PYTHON)" || { echo "No Python found; wanted Python 3.11 or newer. On Debian: apt-get install python3.11 python3.11-venv" >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Found $$("$(PYTHON)" --version) at $(PYTHON); wanted 3.11 or newer. Next: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	@"$(PYTHON)" -m venv .venv 2>/dev/null || { echo "$(PYTHON) cannot make a virtual environment. On Debian: apt-get install python3-venv" >&2; exit 2; }
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

.collections/.installed: requirements.yml scripts/fetch_collections.py | $(BIN)/.installed
	$(BIN)/python scripts/fetch_collections.py
	@touch $@

.PHONY: setup
setup: $(BIN)/.installed .collections/.installed ## Make .venv with all tools, and fetch the two Ansible collections

.PHONY: lab-packages vm-packages bench-packages drill-packages browser-packages
lab-packages: PACKAGES := $(LAB_PACKAGES)
vm-packages: PACKAGES := $(VM_PACKAGES)
bench-packages: PACKAGES := $(BENCH_PACKAGES)
drill-packages: PACKAGES := $(DRILL_PACKAGES)
browser-packages: PACKAGES := $(BROWSER_PACKAGES)
vm-packages: ## Install the Debian packages that virtual machines need (lab up --vm)
lab-packages vm-packages bench-packages drill-packages browser-packages:
	@missing=$$(for package in $(PACKAGES); do dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q ' installed$$' || echo $$package; done | xargs); \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ]; then echo "Found uid $$(id -u), wanted root to install these Debian packages: $$missing. Next: sudo apt-get install -y $$missing, then run make as root" >&2; exit 2; fi; \
	echo "Installing Debian packages: $$missing" >&2; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null

# --- use --------------------------------------------------------------------------------------------------------------

.PHONY: local
local: setup lab-packages ## Set everything up and run the whole chain in the local environment
	$(BIN)/judge-bootstrap --env local

.PHONY: lab-down
lab-down: setup ## End the local environment and remove all it made
	$(BIN)/judge-bootstrap lab down

.PHONY: docs
docs: setup ## Write anew what is generated (cli.md, variables.md, reason-codes.md, Terraform's first-boot script)
	$(BIN)/python scripts/cli_doc.py
	$(BIN)/python scripts/variables_doc.py
	$(BIN)/python scripts/terraform_doc.py
	$(BIN)/python scripts/appconfig_schema.py
	$(BIN)/python scripts/first_boot_template.py
	$(BIN)/judge-node reasons --markdown > docs/reason-codes.md

# --- the gate and the tests -------------------------------------------------------------------------------------------

.PHONY: lint
lint: setup ## The gate: ruff, mypy, yamllint, ansible-lint, terraform fmt, freshness of the generated docs
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/yamllint --strict .
	$(BIN)/ansible-lint --offline -q
	@if [ -n "$(TERRAFORM)" ]; then (set -x; $(TERRAFORM) fmt -check -diff -recursive terraform); \
	else echo "SKIPPED terraform fmt: neither terraform nor tofu is on PATH"; fi
	$(PYTEST) -q tests/contract -k docs

.PHONY: test-unit test-disks test-contract test-integration test-molecule test-faults test-terraform
test-unit: setup ## The everyday suite: no server, no root needed
	$(PYTEST) -q $(PARALLEL) -m 'not root' tests/unit
test-disks: setup lab-packages ## What of it needs root: judge-node on loop devices
	$(PYTEST) -q -m root tests/unit/node
test-contract: setup ## Packaging, import boundaries, docs, what Ansible makes of our playbooks and templates
	$(PYTEST) -q $(PARALLEL) tests/contract
test-integration: setup lab-packages vm-packages browser-packages ## The whole local run and its drills, on real ssh, Kubernetes and vLLM
	$(PYTEST) -q tests/integration
test-faults: lab-packages vm-packages drill-packages faults-rest faults-lab ## Broken configuration, cut connections, planted secrets, disks on virtual machines
test-terraform: setup vm-packages ## The Terraform module: its own tests, apply and destroy on stand-ins, first boot in a machine
	$(PYTEST) -q $(PARALLEL) tests/terraform
test-molecule: $(MOLECULE_SCENARIOS:%=molecule-%) ## One scenario for each role, and one for the whole site

.PHONY: $(MOLECULE_SCENARIOS:%=molecule-%)
molecule-nvme_vm: vm-packages
$(MOLECULE_SCENARIOS:%=molecule-%): molecule-%: setup lab-packages
	case $* in vllm_k8s|site) $(BIN)/judge-bootstrap lab up ;; esac
	export MOLECULE_COMMAND_BORDERS=false; $(BIN)/molecule test -s $* || \
	{ test -n "$${CI:-}" && echo "RERUN molecule $*" && $(BIN)/molecule test -s $*; }

# What needs the lab, and what does not: the two have nothing in common, and both mostly wait (for pods, for machines to
# boot). So `make test` runs them at the same time, and after them, with the machine to themselves, the figures of time.
# -k: what failed does not hide how the rest went. Each half is one list in its order, never run in parallel.
LAB_FIGURES := faults-k8s
LAB_STEPS := integration-lab molecule-vllm_k8s molecule-site faults-lab
# integration-rest is last, because by then the lab has made the CPU build of vLLM that some of it starts.
OTHER_STEPS := test-unit test-disks test-contract molecule-nvme molecule-nvme_vm molecule-model_cache test-terraform \
	faults-rest integration-rest
.PHONY: test test-with-lab test-without-lab integration-lab faults-lab faults-rest integration-rest
test-with-lab: setup
	$(MAKE) -k -j1 $(LAB_STEPS)
test-without-lab: setup
	$(MAKE) -k -j1 $(OTHER_STEPS)
integration-lab: setup
	$(PYTEST) -q tests/integration -m lab
integration-rest: setup
	$(PYTEST) -q tests/integration -m 'not lab'
faults-lab: setup
	$(PYTEST) -q tests/faults/test_faults_k8s.py
	$(MAKE) figures-check FIGURES="$(LAB_FIGURES)"
faults-rest: setup
	$(PYTEST) -q tests/faults --ignore tests/faults/test_faults_k8s.py
	$(MAKE) figures-check FIGURES="$(filter-out $(LAB_FIGURES),$(filter attacks faults-%,$(FIGURES)))"
# All packages first: two halves that install some at the same time would lock each other out.
test: setup lab-packages vm-packages drill-packages bench-packages browser-packages ## Set everything up and pass all tests (what CI runs)
	$(MAKE) lint
	@# set -m: what a shell without it starts in the background ignores Ctrl-C, and there are drills of Ctrl-C in there.
	@# lab down: its control plane, nodes and pods would work beside the figures of time.
	@mkdir -p build; echo "make test-without-lab runs meanwhile; what it says comes afterwards (build/test-without-lab.log)"; \
	set -m; status=0; \
	$(MAKE) test-without-lab >build/test-without-lab.log 2>&1 & other=$$!; \
	$(MAKE) test-with-lab & lab=$$!; \
	trap 'kill -- -$$lab -$$other 2>/dev/null || true; wait' EXIT; trap 'exit 130' INT TERM; \
	wait $$lab || status=$$?; wait $$other || status=$$?; trap - EXIT INT TERM; \
	cat build/test-without-lab.log; \
	$(BIN)/judge-bootstrap lab down || true; \
	$(MAKE) figures-check FIGURES="$(filter bench-%,$(FIGURES))" || status=$$?; \
	grep -hE '^(FAILED|ERROR|RERUN|SHORT|SKIPPED) ' build/test-without-lab.log | cut -c1-2000 || true; exit $$status

# --- figures (each prints one JSON line a figure and exits 1 when one falls short; SCALE=full for full size) -----------

.PHONY: $(FIGURES)
$(FIGURES): setup
	@$(BIN)/python benchmarks/$(subst -,_,$@).py

# What they do to disks they do to loop devices, and faults-nvme to those of virtual machines, too.
bench-nvme: lab-packages
faults-nvme: lab-packages vm-packages
faults-k8s: lab-packages
faults-sync: vm-packages drill-packages
bench-fanout bench-sync: bench-packages

.PHONY: mutation-nvme
mutation-nvme: setup ## Change the guard of the disks in every way: do the tests see it? (25 minutes; docs/mutation.md)
	@$(BIN)/python benchmarks/mutation_nvme.py

.PHONY: figures figures-check
figures: setup ## Run every figure at full size and write benchmarks/RESULTS.md
	SCALE=full $(BIN)/python benchmarks/results.py $(FIGURES)
# A figure of time that falls short is measured once more, since a machine may have been busy; one of faults is not.
figures-check: setup ## Run every figure at CI's size
	@status=0; for figure in $(FIGURES); do \
	$(MAKE) --no-print-directory $$figure && continue; \
	case $$figure in bench-*) echo "AGAIN $$figure"; $(MAKE) --no-print-directory $$figure && continue ;; esac; \
	status=1; done; exit $$status

.PHONY: clean
clean: ## Remove .venv, .collections and build products (the lab's own files: make lab-down)
	rm -rf .venv .collections build dist
