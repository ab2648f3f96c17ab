# The doors: each installs what is missing, then calls a script or `cargo xtask`, where the work is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
.PHONY: help deps up down status test bench guard

help: ## Show this
	@echo "make up       build, start three agents and two PostgreSQL, wait until healthy: in containers if a"
	echo "              Docker engine answers, else under ./.haclt; MODE=compose or MODE=process chooses"
	echo "make status   show the cluster that 'make up' started"
	echo "make down     stop all of it; with PURGE=1 remove its data too"
	echo "make test     everything that must pass: format, lints, tests, docs (cargo xtask verify)"
	echo "make bench    measure failovers and the idle cost, of processes or with MODE=compose of containers;"
	echo "              options in ARGS, such as ARGS='--runs 2'"
	echo "make guard    build the static guard into target/guard/ha-guard"
	echo
	echo "In containers: HACLT_MAJOR=17 (15, 17 or 18), ports HACLT_N1_POSTGRES_PORT=15432 and so on, as in"
	echo "deploy/compose.yaml. Under ./.haclt: HACLT_GRPC_PORT=7401 HACLT_HTTP_PORT=8401 HACLT_POSTGRES_PORT=15432,"
	echo "each the first of a row. HACLT_PG_BIN: PostgreSQL's programs, if not the newest installed."

deps:
	@deploy/install-deps.sh

up: ## Build and start
	@deploy/local.sh up

down: ## Stop; PURGE=1 removes all files
	@deploy/local.sh down $(if $(filter-out 0 no,$(PURGE)),--purge)

status: ## Show
	@deploy/local.sh status

guard: deps ## Build the guard
	@cargo build --quiet --locked --package xtask
	cargo xtask guard

test: deps ## Everything that must pass
	@cargo build --locked --package xtask
	cargo xtask verify

bench: deps ## Measure
	@cargo build --locked --package xtask
	cargo xtask bench $(if $(MODE),--driver $(MODE)) $(ARGS)
