# Three commands matter: `make demo` shows it, `make test` runs every test, `make check` everything that CI holds.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
CARGO ?= cargo

.PHONY: help demo parts test fuzz mutants check fmt lint alone doc licences bench dist

help: ## what can be made
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: ## live traffic with and without Curfew, side by side
	$(CARGO) run --profile demo --locked -p curfew -- demo

parts: ## install what the tests need from Debian, when it is missing
	@scripts/parts

test: parts ## run every test
	$(CARGO) test --workspace --locked

FUZZ_SECONDS ?= 60
fuzz: ## run each fuzz target for FUZZ_SECONDS, 60 unless told
	@command -v cargo-fuzz >/dev/null || $(CARGO) install cargo-fuzz --locked --version 0.13.2
	@rustup run nightly rustc --version >/dev/null 2>&1 || rustup toolchain install nightly --profile minimal
	@for target in $$(cd fuzz && cargo-fuzz list); do \
	  scratch=$$(mktemp -d); status=0; \
	  (cd fuzz && $(CARGO) +nightly fuzz run $$target $$scratch corpus/$$target -- -max_total_time=$(FUZZ_SECONDS) -timeout=10 -max_len=4096 -verbosity=0 -print_final_stats=1) || status=$$?; \
	  rm -rf $$scratch; [ $$status -eq 0 ] || exit $$status; \
	done
mutants: ## break each invariant of the engine with one line; a named test must fail
	@crates/curfew-engine/mutants/run

check: fmt lint alone doc licences ## format, lints, docs, licences

fmt:
	$(CARGO) fmt --all --check

lint:
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

# With the features that it asks for itself: others may not be there when it is built apart from the workspace.
alone:
	@for crate in crates/*; do $(CARGO) check --quiet --locked -p $$(basename $$crate); done

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked --quiet

licences:
	@command -v cargo-deny >/dev/null || $(CARGO) install cargo-deny --locked --version 0.20.2
	$(CARGO) deny --log-level error check licenses bans sources

bench: ## measure beside HAProxy, nginx, Envoy and pgbouncer; writes docs/performance.md
	scripts/bench

dist: ## the build that is shipped, as a tarball in target/dist
	$(CARGO) build --profile dist --locked -p curfew
	tar -C target/dist -czf target/dist/curfew-$$(uname -m)-linux.tar.gz curfew
