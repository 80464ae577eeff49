PYTHON ?= python3
BIN := .venv/bin
WEB := cua-frontend

.PHONY: run web demo docs test check chaos bench setup migrate migration backup restore rekey format clean

BACKUP ?= backups/cua-$(shell date -u +%Y%m%dT%H%M%SZ).tar

run: setup $(if $(shell command -v npm),web)
	@export HOST="$(HOST)" PORT="$(PORT)" && exec $(BIN)/python serve.py

demo: setup
	@$(BIN)/python -m demo

docs: .venv/.packages $(WEB)/node_modules/.package-lock.json
	$(BIN)/python -m docs.build
	npm --prefix $(WEB) run --silent gen

WEB_SOURCES = $(shell find $(addprefix $(WEB)/,app components features lib public scripts) -type f 2>/dev/null) \
  $(wildcard $(WEB)/*.ts $(WEB)/*.mjs $(WEB)/package.json)

web: $(WEB)/.next/standalone/start.mjs

$(WEB)/node_modules/.package-lock.json: $(WEB)/package-lock.json
	npm --prefix $(WEB) ci --no-audit --no-fund --loglevel=error

$(WEB)/.next/standalone/start.mjs: $(WEB)/node_modules/.package-lock.json $(WEB_SOURCES)
	@rm -rf $(WEB)/.next/standalone
	NEXT_TELEMETRY_DISABLED=1 npm --prefix $(WEB) run --silent build
	@touch $@

# Two at once, file by file: most tests wait for a browser or a database half of their time.
test: .venv/.tools .venv/.chromium web
	npm --prefix $(WEB) test --silent
	$(BIN)/pytest -n 2 --dist loadfile

check: .venv/.tools $(WEB)/node_modules/.package-lock.json
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .
	npm --prefix $(WEB) run --silent check
	npm --prefix $(WEB) run --silent gen >/dev/null && git diff --exit-code --stat $(WEB)/lib/api

chaos: .venv/.tools .venv/.chromium
	$(BIN)/pytest tests/chaos.py

bench: .venv/.tools .venv/.chromium web
	$(BIN)/python -m benchmarks.start
	$(BIN)/python -m benchmarks.data_path
	$(BIN)/python -m benchmarks.loops
	$(BIN)/python -m benchmarks.edge
	$(BIN)/python -m benchmarks.uploads
	$(BIN)/python -m benchmarks.recording
	$(BIN)/python -m benchmarks.agent
	$(BIN)/python -m benchmarks.web

setup: .venv/.packages .venv/.chromium

migrate: .venv/.packages
	$(BIN)/alembic upgrade head

backup: .venv/.packages
	@mkdir -p $(dir $(BACKUP))
	@$(BIN)/python backup.py create $(BACKUP)

restore: .venv/.packages
	@test -f "$(FROM)" || (echo "Say which: make restore FROM=backups/….tar" && false)
	@$(BIN)/python backup.py restore $(FROM)

rekey: .venv/.packages
	@$(BIN)/python rekey.py

migration: .venv/.tools
	$(BIN)/alembic revision --autogenerate -m "$(m)"

format: .venv/.tools
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache

.venv/.chromium: .venv/.packages
	@$(BIN)/python -c "from browser.chromium import find_chromium; find_chromium()" 2>/dev/null \
	  || $(BIN)/playwright install chromium \
	  || (echo "No Chromium: install one, for example with: apt-get install chromium" && false)
	@touch $@

.venv/.packages: requirements.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/.tools: requirements-dev.txt .venv/.packages
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
