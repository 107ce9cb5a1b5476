# Two commands matter: `make test` runs every test, `make check` everything that CI holds.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
CARGO ?= cargo

.PHONY: help test check parts fmt lint doc licences

help: ## what can be made
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

parts: ## install what the tests need from Debian, when it is missing
	@scripts/parts

test: parts ## run every test
	$(CARGO) test --workspace --locked

check: fmt lint doc licences ## format, lints, docs, licences

fmt:
	$(CARGO) fmt --all --check

lint:
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked --quiet

licences:
	@command -v cargo-deny >/dev/null || $(CARGO) install cargo-deny --locked --version 0.20.2
	$(CARGO) deny --log-level error check licenses bans sources
