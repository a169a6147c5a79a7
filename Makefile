# Two commands do all set-up: `make demo` (a song) and `make test`. They make their own .venv.

VENV := .venv
BIN := $(VENV)/bin
WITH_TESTS := .[torch,dev,library,studio]
# the reference of published CLAP files; it declares 49 packages, of which its model class needs none
WITHOUT_DEPENDENCIES := laion-clap==1.1.7 torchlibrosa==0.1.0
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PROMPT ?= relaxing piano melody
DURATION ?= 20
SEED ?= 3
NEXT := mellow lo-fi hip hop with electric piano

.PHONY: demo test format lint clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.runtime
	@echo "== planning: $(PROMPT)"
	@$(BIN)/musicot plan --prompt "$(PROMPT)" --duration $(DURATION) --seed $(SEED) \
		--output demo.plan.json --png demo.plan.png --overwrite
	@echo "== rendering the plan"
	@$(BIN)/musicot generate --plan demo.plan.json --seed $(SEED) --output demo.wav --overwrite
	@echo "== demo.wav is the song, demo.json its settings, demo.plan.png a picture of its plan"
	@echo "== next: $(BIN)/musicot generate \"$(NEXT)\""

test: $(VENV)/.test
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build *.egg-info

# uv where it is installed, else venv and pip.
$(BIN)/python:
	@if command -v uv >/dev/null; then uv venv --quiet --python '>=3.11' $(VENV); \
	elif [ -z "$(PYTHON)" ]; then \
		echo "Python 3.11 or newer is needed: install it, or make PYTHON=/path/to/python3"; exit 1; \
	else \
		$(PYTHON) -m venv $(VENV) || { $(call system_packages,python3-venv); \
		$(PYTHON) -m venv --clear $(VENV); }; fi

$(VENV)/.runtime: pyproject.toml | $(BIN)/python
	@echo "== installing (once)"
	@$(call install,-e .)
	@if [ "$$(uname)" = Linux ]; then $(BIN)/python -c 'import ctypes; ctypes.CDLL("libopenblas.so.0")' \
		2>/dev/null || { $(call system_packages,libopenblas0-pthread); }; fi
	@touch $@

$(VENV)/.test: $(VENV)/.runtime
	@echo "== installing the test tools and PyTorch (once)"
	@$(call install,-e '$(WITH_TESTS)')
	@$(call install,--no-deps $(WITHOUT_DEPENDENCIES))
	@command -v fluidsynth >/dev/null || { $(call system_packages,fluidsynth fluid-soundfont-gm); }
	@command -v chromium >/dev/null || { $(call system_packages,chromium); }
	@touch $@

# Debian packages where we may install them, else a hint: all works without, slower or less tested.
define system_packages
if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	{ apt-get install -y -qq $(1) || { apt-get update -qq && apt-get install -y -qq $(1); }; } \
		>/dev/null 2>&1 && echo "== installed $(1)" || echo "== couldn't install $(1)"; \
else echo "== hint: this would help: sudo apt-get install $(1)"; fi
endef

define install
if command -v uv >/dev/null; then \
	UV_TORCH_BACKEND=cpu uv pip install --quiet --python $(BIN)/python $(1); \
else \
	$(BIN)/python -m pip install -qq --disable-pip-version-check $(1); fi
endef
