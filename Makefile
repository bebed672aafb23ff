# `make help` lists what there is. Everything is built by the go command; nothing here needs the internet once modules and packages are cached.

GO ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# Without -buildvcs=false, go refuses to build a clone that belongs to another user (a mounted one, root's make in a user's clone); VERSION says the same.
# Without grpcnotrace, gRPC links golang.org/x/net/trace, whose templates keep every method of every type in the programs: 20 MB of shimlet.
# Kubernetes' packages are mostly generated code, which is 1 MB of shimlet larger with functions inlined, and not measurably faster.
# integration/tools builds with the same flags.
SMALL := -gcflags='k8s.io/...=-l' -gcflags='sigs.k8s.io/...=-l' -gcflags='google.golang.org/protobuf/...=-l'
BUILD_FLAGS := -trimpath -tags grpcnotrace $(SMALL) -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)'
PROGRAMS := shimd shimd-keeper shimlet
BIN := bin
export CGO_ENABLED ?= 0

# Packages of Debian that some tests need: external OCI runtimes, CNI plugins, tools to look at the machine with, gcc for the race detector.
TEST_PACKAGES := busybox-static util-linux iproute2 nftables runc crun containernetworking-plugins gcc libc6-dev

# Where the race detector is worth its time: what has more than one goroutine.
RACE_PACKAGES ?= ./cri/... ./runtime/... ./image/... ./network/... ./cgroups/... ./node/... ./config/...

# What `make up` runs, and what `make down` removes.
ROOT ?= /var/lib/shimd
STATE ?= /run/shimd

# Where `make cluster` keeps its cluster; several run side by side in directories of their own.
CLUSTER_DIR ?= /var/lib/shimd-cluster

# What `make critest-vm` runs in: a command that takes `--share DIR [--systemd] [--kernel V] --timeout S -- COMMAND`.
VMRUN ?= vmrun
KERNEL ?=
SYSTEMD ?= 1

.DEFAULT_GOAL := help

.PHONY: help
help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## the programs, static, into bin/
	$(GO) build $(BUILD_FLAGS) -o $(BIN)/ $(addprefix ./cmd/,$(PROGRAMS))

.PHONY: cross
cross: ## the programs for amd64 and arm64, into bin/ARCH/
	GOARCH=amd64 $(GO) build $(BUILD_FLAGS) -o $(BIN)/amd64/ $(addprefix ./cmd/,$(PROGRAMS))
	GOARCH=arm64 $(GO) build $(BUILD_FLAGS) -o $(BIN)/arm64/ $(addprefix ./cmd/,$(PROGRAMS))

.PHONY: fmt
fmt: ## gofmt and import order
	$(GO) tool -modfile=integration/tools/golangci-lint/go.mod golangci-lint fmt

.PHONY: lint
lint: ## golangci-lint (built from its module on first use), and go vet for arm64
	$(GO) tool -modfile=integration/tools/golangci-lint/go.mod golangci-lint run
	GOARCH=arm64 $(GO) vet ./...

.PHONY: test
test: test-packages test-unit test-integration ## everything: unit tests, race detector, the real daemon, critest

# Installs what is missing where that can be done, else says it; tests that need it then skip, and say so too.
.PHONY: test-packages
test-packages:
	@command -v dpkg-query >/dev/null || { echo "not a Debian machine: tests that need $(TEST_PACKAGES) will skip"; exit 0; }; \
	missing=; for p in $(TEST_PACKAGES); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	[ -n "$$missing" ] || exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing$$missing"; \
		apt-get install -qq -y --no-install-recommends $$missing >/dev/null || { apt-get update -qq && apt-get install -qq -y --no-install-recommends $$missing >/dev/null; }; \
	else echo "missing packages, tests that need them will skip:$$missing"; fi

.PHONY: test-unit
test-unit: ## unit tests, under the race detector where there is gcc
	@if command -v gcc >/dev/null; then \
		echo "go test -race $(RACE_PACKAGES)"; CGO_ENABLED=1 $(GO) test -race -timeout 15m $(RACE_PACKAGES); \
	else \
		echo "no gcc: without the race detector"; $(GO) test -timeout 15m $(RACE_PACKAGES); \
	fi
	$(GO) test -timeout 15m $$($(GO) list ./... | grep -v /integration | grep -vxF "$$($(GO) list $(RACE_PACKAGES))")

.PHONY: test-integration
test-integration: ## black-box tests against the real daemon, whole critest included; `make examples` is apart
	$(GO) test -timeout 25m -p 1 -v $$($(GO) list ./integration/... | grep -v /integration/examples)

.PHONY: critest
critest: ## the whole CRI validation suite; PARALLEL=N, RUNS=N, FOCUS=regexp
	$(GO) run ./integration/cmd/critest -logs $(BIN)/critest-logs -parallel $(or $(PARALLEL),1) -runs $(or $(RUNS),1) \
		$(if $(FOCUS),-focus '$(FOCUS)' -minimum 1)

.PHONY: kubelet-test
kubelet-test: ## the real kubelet runs pods on shimd; builds it first, once, in six minutes or so (`make test` has this when it is built)
	nice -n 10 $(GO) run ./integration/cmd/kubernetes kubelet
	$(GO) test -count=1 -timeout 15m -v ./integration/kubelet/

.PHONY: kubernetes
kubernetes: ## build the programs of a Kubernetes cluster, once, in a quarter of an hour or so; SUITES=1 builds Kubernetes' test suites too
	nice -n 10 $(GO) run ./integration/cmd/kubernetes $(if $(SUITES),-suites)

.PHONY: images
images: ## build every image of Kubernetes' suites and of the examples into the cache, once; SET=conformance for some
	nice -n 10 $(GO) run ./integration/cmd/images $(or $(SET),everything)

# What the three suites take. The first run builds Kubernetes and its suites: half an hour of two cores.
CONFORMANCE := $(GO) run ./integration/cmd/conformance -agent $(or $(AGENT),kubelet) -nodes $(or $(NODES),3) -parallel $(or $(PARALLEL),4) \
	$(if $(FOCUS),-focus '$(FOCUS)') $(if $(SKIP),-skip '$(SKIP)') $(if $(CHAOS),-chaos 3s)

.PHONY: conformance
conformance: ## all of Kubernetes' [Conformance] specs on NODES=3 of AGENT=kubelet or shimlet, in an hour; FOCUS=regexp SKIP=regexp, CHAOS=1 kills shimd meanwhile
	$(CONFORMANCE) -suite conformance

.PHONY: conformance-fast
conformance-fast: ## those of storage and nodes that do not wait, in ten minutes; the same variables
	$(CONFORMANCE) -suite conformance-fast

.PHONY: node-conformance
node-conformance: ## Kubernetes' [NodeConformance] specs on one node, in 50 minutes; FOCUS=regexp SKIP=regexp
	$(CONFORMANCE) -suite node-conformance

.PHONY: critest-vm
critest-vm: ## the same in a virtual machine on cgroup v2, systemd driver; SYSTEMD= for cgroupfs, KERNEL=6.1 for an older one
	$(GO) run ./integration/cmd/critest -bundle-to $(CURDIR)/$(BIN)/bundle
	mkdir -p $(CURDIR)/$(BIN)/vm-logs
	$(VMRUN) $(if $(SYSTEMD),--systemd) $(if $(KERNEL),--kernel $(KERNEL)) --timeout 10800 \
		--share $(CURDIR)/$(BIN)/bundle:ro --share $(CURDIR)/$(BIN)/vm-logs -- \
		$(CURDIR)/$(BIN)/bundle/critest -bundle $(CURDIR)/$(BIN)/bundle -logs $(CURDIR)/$(BIN)/vm-logs \
		-driver $(if $(SYSTEMD),systemd,cgroupfs) -parallel $(or $(PARALLEL),1) $(if $(FOCUS),-focus '$(FOCUS)' -minimum 1)

.PHONY: bench
bench: ## latencies, churn, memory and idle CPU; ENDPOINT=unix://... measures another runtime
	@mkdir -p $(BIN)
	$(GO) run ./integration/cmd/bench $(if $(ENDPOINT),-endpoint $(ENDPOINT)) -json $(BIN)/bench.json $(BENCH_FLAGS)

.PHONY: bench-agents
bench-agents: ## the kubelet and shimlet side by side in one cluster: binding to Running, a Deployment of 100, memory and idle CPU
	@mkdir -p $(BIN)
	$(GO) run ./integration/cmd/agentbench -json $(BIN)/agentbench.json $(BENCH_FLAGS)

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (20s)
	@grep -rlE '^func Fuzz' --include='*_test.go' . | while read -r file; do \
		grep -oE '^func Fuzz[A-Za-z0-9_]*' "$$file" | cut -c6- | while read -r target; do \
			echo "$$target in $$(dirname "$$file")"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(or $(FUZZTIME),20s) "$$(dirname "$$file")" || exit 1; \
		done || exit 1; \
	done

.PHONY: up
up: build ## start shimd and shimlet with a demo pod, fetch its page, and leave it running
	$(GO) run ./integration/cmd/up -programs $(BIN) -root $(ROOT) -state $(STATE)

.PHONY: down
down: ## remove what `make up` started
	$(GO) run ./integration/cmd/up -down -programs $(BIN) -root $(ROOT) -state $(STATE)

.PHONY: cluster
cluster: ## a Kubernetes cluster on this machine, in the background; NODES=3, AGENT=shimlet, CLUSTER_DIR=/var/lib/shimd-cluster, IMAGES=cluster,conformance
	$(GO) run ./integration/cmd/cluster up -dir $(CLUSTER_DIR) -nodes $(or $(NODES),1) -agent $(or $(AGENT),kubelet) -images $(or $(IMAGES),cluster)

.PHONY: cluster-status
cluster-status: ## nodes, pods, programs and logs of that cluster
	$(GO) run ./integration/cmd/cluster status -dir $(CLUSTER_DIR)

.PHONY: cluster-down
cluster-down: ## end that cluster and remove all of it
	$(GO) run ./integration/cmd/cluster down -dir $(CLUSTER_DIR)

.PHONY: examples
examples: ## every folder of examples/ on three nodes; AGENT=kubelet|shimlet, RUN=regexp
	SHIMD_TEST_AGENT=$(or $(AGENT),kubelet) $(GO) test -count=1 -timeout 90m -parallel 4 -v ./integration/examples/ $(if $(RUN),-run '$(RUN)')

.PHONY: clean
clean: ## remove bin/
	rm -rf $(BIN)
