# Two commands for a newcomer: `make demo` and `make test`. Everything is built outside the checkout, in one cache folder.
SHELL := /bin/bash
.DELETE_ON_ERROR:

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/joulebook
CARGO_TARGET_DIR ?= $(CACHE)/target
JOULEBOOK_ENGINE ?= $(CACHE)/engines/llamacpp/bin/python
JOULEBOOK_TRITON ?= $(CACHE)/engines/triton/bin/tritonserver
JOULEBOOK_MLSERVER ?= $(CACHE)/engines/mlserver/bin/mlserver
JOULEBOOK_LITELLM ?= $(CACHE)/engines/litellm/bin/litellm
JOULEBOOK_KSERVE ?= $(CACHE)/engines/kserve/bin/python
JOULEBOOK_BENTOML ?= $(CACHE)/engines/bentoml/bin/bentoml
JOULEBOOK_TORCHSERVE ?= $(CACHE)/engines/torchserve/bin/torchserve
JOULEBOOK_RAYSERVE ?= $(CACHE)/engines/rayserve/bin/python
JOULEBOOK_DYNAMO ?= $(CACHE)/engines/dynamo/bin/python
JOULEBOOK_NVML_CLIENT ?= $(CACHE)/engines/nvml/bin/python
JOULEBOOK_BMC_CLIENT ?= $(CACHE)/engines/bmc/bin/python
JOULEBOOK_CODECARBON ?= $(CACHE)/engines/codecarbon/bin/python
JOULEBOOK_ECOLOGITS ?= $(CACHE)/engines/ecologits/bin/python
JOULEBOOK_HELM ?= $(CACHE)/chart/helm/helm
JOULEBOOK_KUBECTL ?= $(CACHE)/chart/kubectl/kubectl
JOULEBOOK_CHART_PYTHON ?= $(CACHE)/engines/chart/bin/python
JOULEBOOK_SCAPHANDRE ?= $(CACHE)/peers/scaphandre/usr/bin/scaphandre
export CARGO_TARGET_DIR JOULEBOOK_ENGINE JOULEBOOK_TRITON JOULEBOOK_MLSERVER JOULEBOOK_LITELLM JOULEBOOK_KSERVE JOULEBOOK_BENTOML JOULEBOOK_TORCHSERVE JOULEBOOK_RAYSERVE JOULEBOOK_DYNAMO JOULEBOOK_NVML_CLIENT JOULEBOOK_BMC_CLIENT JOULEBOOK_CODECARBON JOULEBOOK_ECOLOGITS JOULEBOOK_HELM JOULEBOOK_KUBECTL JOULEBOOK_CHART_PYTHON JOULEBOOK_SCAPHANDRE
CARGO := .ci/cargo
# What is mounted goes with the last process, however the run ends.
RIGS := unshare --mount .ci/test -p joulebook-tests --features rigs

RIG_TESTS := $(addprefix --test ,rigs containers kills falls power full_disk failed_sync disks backups network hostile overload clocks codecarbon)

DEMO_SECONDS ?= 60
export DEMO_SECONDS KEEP DEMO_REGION DEMO_ZONE DEMO_NEIGHBOUR
export FUZZ_SECONDS
export BENCH_STREAMS BENCH_SERIES_NODES BENCH_HOURS BENCH_LONG_NODES BENCH_FULL_NODES BENCH_ROUNDS BENCH_CYCLES BENCH_PROCESSES BENCH_NODES BENCH_SECONDS BENCH_LIVE_SECONDS BENCH_SEED BENCH_NOISE BENCH_DAYS BENCH_ASKS BENCH_PEER_ASKS BENCH_PEER_STEP

.PHONY: help setup build demo test test-engines test-rigs images pictures crash network mutants mutants-rigs fuzz bench bench-paths bench-query bench-scale bench-streams bench-agent bench-peers lint clean-demo

help: ## Lists the targets.
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: ## Installs what is missing: libclang, RocksDB as a library, the inference servers of demo and tests, NVIDIA's client of NVML, clients of BMCs, tools that estimate, what reads our figures, the contract's linter, helm and what looks at a chart.
	.ci/setup libclang rocksdb engine triton mlserver nvml bmc codecarbon ecologits telemetry buf chart

build: ## Builds the three programs, optimised.
	.ci/setup libclang rocksdb
	$(CARGO) build --release --locked --bins -p joulebook-agent -p joulebook-aggregator -p joulebook

demo: ## Grams per token of two model versions served on this machine, and of two on a simulated node of GPUs. [DEMO_SECONDS=60] [KEEP=1] [DEMO_REGION=… | DEMO_ZONE=…] [DEMO_NEIGHBOUR=1]
	.ci/setup engine
	$(MAKE) --no-print-directory build
	$(CARGO) build --release --locked -p joulebook-hwsim -p joulebook-hwsim-nvml
	JOULEBOOK_BIN_DIR=$(CARGO_TARGET_DIR)/release python3 tests/demo/run.py

test: lint ## Runs every test that needs no privilege, and the linters before.
	.ci/setup engine triton mlserver nvml bmc codecarbon ecologits telemetry chart
	.ci/test --workspace

test-engines: ## Installs further inference servers and gateways and runs the tests against them.
	.ci/setup libclang rocksdb engine litellm kserve bentoml torchserve rayserve dynamo
	.ci/test -p joulebook-tests --features engines --test servers -- --nocapture --test-threads=1

test-rigs: ## Runs the tests that need root, and three mutants in turn; fails where it cannot run them.
	@[ "$$(id -u)" = 0 ] || { echo "test-rigs: needs root: it runs programs as other users and mounts file systems" >&2; exit 77; }
	.ci/setup libclang rocksdb rigs codecarbon chart
	$(RIGS) $(RIG_TESTS) -- --nocapture --test-threads=1
	MUTANTS=3 .ci/mutants

IMAGES ?= $(CACHE)/images
# No path of this machine in the programs: another checkout makes the same bytes. C's own by the flag of C.
REMAP = $(foreach pair,$(CURDIR)=/joulebook $(CARGO_TARGET_DIR)=/target $(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo,"--remap-path-prefix=$(pair)",)
IMAGE_CFLAGS = -ffile-prefix-map=$(HOME)=/home
IMAGE_CARGO = CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)/images $(CARGO) --config "target.'cfg(all())'.rustflags=[$(subst ",',$(REMAP) $(1))]"
# The agent is made alone: no feature that only the others ask for. Zstandard without the strategies of levels above 4: batches
# are packed at level 3.
AGENT_CFLAGS = $(IMAGE_CFLAGS) $(patsubst %,-DZSTD_EXCLUDE_%_BLOCK_COMPRESSOR,GREEDY LAZY LAZY2 BTLAZY2 BTOPT BTULTRA)
# A function that is not marked to be inlined is so only where it is small; LLVM's own threshold is 225.
AGENT_RUSTFLAGS = "-Cllvm-args=-inline-threshold=50"
# Where rustc links with lld: equal functions once, and relocations packed, which glibc reads from 2.36 on (it is in the image).
AGENT_LINK_x86_64 = -C link-arg=-Wl,--icf=all -C link-arg=-Wl,-z,pack-relative-relocs
images: ## Makes the container images as OCI layouts with their bills of materials; the agent's is at most 15 MB unpacked. [IMAGES=…]
	.ci/setup libclang rocksdb
	CFLAGS="$(AGENT_CFLAGS)" $(call IMAGE_CARGO,$(AGENT_RUSTFLAGS)) rustc --profile image --locked -p joulebook-agent --bin joulebook-agent -- $(AGENT_LINK_$(shell uname -m))
	CFLAGS="$(IMAGE_CFLAGS)" $(call IMAGE_CARGO) build --release --locked --bins -p joulebook-aggregator -p joulebook
	.ci/image --bins $(CARGO_TARGET_DIR)/images/image $(CARGO_TARGET_DIR)/images/release --out $(IMAGES) --agent-limit 15000000

PICTURES ?= helm/pictures
pictures: ## Draws what each panel of the dashboards shows of the scripted fleet, from a real Prometheus. [PICTURES=…]
	.ci/setup libclang rocksdb telemetry pictures
	mkdir -p "$(PICTURES)"
	JOULEBOOK_PICTURES="$(CACHE)/pictures.json" $(CARGO) test --locked -p joulebook-tests --test dashboards every_query
	$(CACHE)/engines/pictures/bin/python helm/pictures.py "$(CACHE)/pictures.json" "$(PICTURES)"

crash: ## Kills, power cuts, full disks, failed syncs, damage and backups in their long form; prints seed and figures. [KILLS=1000] [AGENT_KILLS=1000] [FALLS=20] [CUTS=300] [FULL=20] [EIO=50] [BACKUPS=20] [RESTORE_MIB=1024] [DAMAGES=1000] [SEED=…]
	@[ "$$(id -u)" = 0 ] || { echo "crash: needs root: it mounts file systems" >&2; exit 77; }
	.ci/setup libclang rocksdb rigs
	@echo "crash: KILLS=$(KILLS) AGENT_KILLS=$(AGENT_KILLS) FALLS=$(FALLS) CUTS=$(CUTS) FULL=$(FULL) EIO=$(EIO) BACKUPS=$(BACKUPS) RESTORE_MIB=$(RESTORE_MIB) DAMAGES=$(DAMAGES) SEED=$(SEED)"
	$(RIGS) --test kills --test falls --test power --test disks --test failed_sync --test backups --test damage -- --nocapture --test-threads=1
crash: export JOULEBOOK_TEST_SECONDS = 0
crash: export KILLS ?= 1000
crash: export AGENT_KILLS ?= 1000
crash: export FALLS ?= 20
crash: export CUTS ?= 300
crash: export FULL ?= 20
crash: export EIO ?= 50
crash: export BACKUPS ?= 20
crash: export RESTORE_MIB ?= 1024
crash: export DAMAGES ?= 1000

network: ## Bad networks, hostile clients and overload in their long form, 45 minutes. [STRIDE=1] [PARTITIONS=10] [PART_SECONDS=60] [ATTACK_SECONDS=300] [OVERLOAD_SECONDS=60] [SEED=…]
	@[ "$$(id -u)" = 0 ] || { echo "network: needs root: it makes network namespaces" >&2; exit 77; }
	.ci/setup libclang rocksdb rigs
	$(RIGS) --test network --test hostile --test overload -- --nocapture --test-threads=1
network: export JOULEBOOK_TEST_SECONDS = 0
network: export STRIDE ?= 1
network: export PARTITIONS ?= 10
network: export PART_SECONDS ?= 60
network: export ATTACK_SECONDS ?= 300
network: export OVERLOAD_SECONDS ?= 60

mutants: ## Shows that the tests notice: each patch of tests/mutants must make one fail.
	.ci/setup libclang rocksdb
	.ci/mutants

mutants-rigs: ## The same for the rigs; needs root.
	@[ "$$(id -u)" = 0 ] || { echo "mutants-rigs: needs root: it mounts file systems" >&2; exit 77; }
	.ci/setup libclang rocksdb rigs
	unshare --mount .ci/mutants tests/mutants/rigs

fuzz: ## Runs the fuzz targets under libFuzzer. [FUZZ_SECONDS=60 each] [FUZZ_TARGETS="batch session …"]
	.ci/setup libclang rocksdb
	.ci/fuzz $(FUZZ_TARGETS)

bench: ## What a sample costs to take in and to keep, beside VictoriaMetrics and the floor, 15 minutes. [BENCH_NODES=32] [BENCH_SECONDS=3600] [BENCH_LIVE_SECONDS=60] [BENCH_SEED=1] [BENCH_NOISE=1] [BENCH_ROUNDS=1] [BENCH_SERIES_NODES=1000]
	@$(MAKE) --no-print-directory build
	JOULEBOOK_BIN_DIR=$(CARGO_TARGET_DIR)/release $(CARGO) bench --locked -p joulebook-benches --bench store

bench-paths: ## What the hot paths take, each alone: allocations, time, and instructions as callgrind counts them, beside those that are kept. [BENCH_KEEP=1 keeps these]
	.ci/setup libclang rocksdb valgrind
	$(CARGO) bench --locked -p joulebook-benches --bench allocations --bench paths

bench-query: ## What a question over an hour and over a month costs beside VictoriaMetrics and Prometheus, and whether it is exact, 15 minutes. [BENCH_NODES=32] [BENCH_DAYS=30] [BENCH_SECONDS=3600] [BENCH_ASKS=25] [BENCH_PEER_ASKS=3] [BENCH_PEER_STEP=60] [BENCH_SEED=1]
	@$(MAKE) --no-print-directory build
	JOULEBOOK_BIN_DIR=$(CARGO_TARGET_DIR)/release $(CARGO) bench --locked -p joulebook-benches --bench query

bench-scale: ## How cost grows with window, streams, series, time and data, as slopes with their alarms, 30 minutes. [BENCH_NODES=32] [BENCH_DAYS=30] [BENCH_SECONDS=60] [BENCH_STREAMS=10,100,1000,10000] [BENCH_HOURS=1,24,166] [BENCH_LONG_NODES=1] [BENCH_FULL_NODES=16] [BENCH_ASKS=25] [BENCH_SEED=1]
	@$(MAKE) --no-print-directory build
	JOULEBOOK_BIN_DIR=$(CARGO_TARGET_DIR)/release $(CARGO) bench --locked -p joulebook-benches --bench scale

bench-streams: ## Whether acknowledgements keep up with so many nodes at once, what one costs, and that all of it is stored; 3 minutes. [BENCH_STREAMS=10000] [BENCH_SECONDS=60] [BENCH_SEED=1]
	@$(MAKE) --no-print-directory build
	JOULEBOOK_BIN_DIR=$(CARGO_TARGET_DIR)/release $(CARGO) bench --locked -p joulebook-benches --bench streams

bench-agent: ## What a cycle of the agent costs beside the floor and other agents, 25 minutes. [BENCH_ROUNDS=3] [BENCH_CYCLES=10] [BENCH_PROCESSES=30,300,3000]
	@$(MAKE) --no-print-directory build
	JOULEBOOK_BIN_DIR=$(CARGO_TARGET_DIR)/release $(CARGO) bench --locked -p joulebook-benches --bench agent

bench-peers: ## Installs what the benches compare with: VictoriaMetrics, Prometheus, node_exporter, scaphandre, and strace.
	.ci/setup peers

lint: ## Format, clippy and the contract's linter; warnings are errors.
	.ci/setup libclang rocksdb buf
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --features joulebook-tests/rigs,joulebook-tests/engines --locked -- -D warnings
	.ci/buf/lint

clean-demo: ## Removes what interrupted or kept demos left in the temporary folder.
	rm -rf -- "$${TMPDIR:-/tmp}"/joulebook-demo-*
