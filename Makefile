# Everything to run, check and measure Nuncio. `make` alone lists it.

CARGO ?= cargo
# How long each fuzz target runs. Two run at a time.
FUZZ_SECONDS ?= 30
# Further arguments, for `run` and `bench`: make run ARGS="run config/example.toml"
ARGS ?=
# For `image`: what it is called, and the profile that it is built from.
IMAGE ?= nuncio
PROFILE ?= release

# One profile (dev, see Cargo.toml) and one directory for everything but `bench`: nothing is compiled for a second time.
STEP := .ci/step

.PHONY: help run image package deb test lint fuzz bench bench-micro deps clean
.NOTPARALLEL:

help: ## List what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

run: ## Build and start the demo: a proxy, three endpoints, and what to try
	@.ci/deps build
	$(CARGO) run --locked -- $(or $(ARGS),demo)

image: ## Build the container image IMAGE (nuncio): docs/container.md
	@.ci/deps image
	CARGO=$(CARGO) config/container/build.sh $(IMAGE) $(PROFILE)

test: ## All checks: lint, tests against real servers, documentation, fuzzing
	@.ci/deps test
	@$(MAKE) --no-print-directory lint
	@if $(CARGO) nextest --version >/dev/null 2>&1; then $(STEP) tests $(CARGO) nextest run --locked; \
	 else $(STEP) tests $(CARGO) test --locked --lib --bins --tests --no-fail-fast; fi
	@$(STEP) "documentation tests" $(CARGO) test --locked --doc
	@$(MAKE) --no-print-directory fuzz
	@echo "all checks passed"

lint: ## Format, clippy and documentation, warnings as errors
	@.ci/deps build
	@$(STEP) format $(CARGO) fmt --all --check
	@$(STEP) clippy $(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@RUSTDOCFLAGS="-D warnings" $(STEP) documentation $(CARGO) doc --locked --no-deps

fuzz: ## Every fuzz target for FUZZ_SECONDS (30); fuzz/run.sh runs single ones
	@.ci/deps build
	@FUZZ_SECONDS=$(FUZZ_SECONDS) $(STEP) fuzz fuzz/run.sh

bench: ## Compare with nginx and HAProxy: benches/compare/README.md
	@.ci/deps bench
	$(CARGO) build --locked --release
	benches/compare/compare.py $(ARGS)

bench-micro: ## Benchmarks of single functions
	@.ci/deps build
	$(CARGO) bench --locked

package: ## Manual pages and completions of shells, into target/package
	@.ci/deps build
	$(CARGO) build --locked --release
	@mkdir -p target/package/man
	target/release/nuncio man target/package/man
	target/release/nuncio completions bash > target/package/nuncio.bash
	target/release/nuncio completions zsh > target/package/_nuncio
	target/release/nuncio completions fish > target/package/nuncio.fish

deb: package ## A Debian package, into target/debian; takes cargo-deb (cargo install cargo-deb)
	$(CARGO) deb --no-build --strip

deps: ## Install what all of these need and is missing (Debian packages)
	@.ci/deps bench

clean: ## Delete everything that was built, and what fuzzing learned
	$(CARGO) clean
	rm -rf fuzz/corpus fuzz/artifacts
