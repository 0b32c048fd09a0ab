# make demo      set up .venv, then train and evaluate the miniature experiment into output/demo
# make test      set up .venv, then lint, check formatting and types, and run the tests
# make install   set up .venv only
# make docs      build the documentation's site into site/; python -m http.server --directory site shows it
# make fuzz      N=2000 mutations of everything that is read from outside
# make kill-test N=20 kills of each program at random moments, and one at each step of a checkpoint write;
#                full disks, which need root
# make install-test   install the wheel in new environments (PYTHONS, each with uv and with venv) and try it: 30 minutes
# make export-test    export whole miniature models in every format, and compare them
# make towers    compare small copies of all CLIPs that open_clip lists with open_clip's own
# make lock      write requirements.lock anew: the newest versions that fit pyproject.toml, with hashes
#
# Variables: PYTHON=python3.12      interpreter of a new environment (3.10 to 3.13; default python3.11, else python3)
#            INSTALLER=pip          plain pip even where uv is available (auto, uv, pip)
#            DETECTRON2=/path       use this checkout of upstream Detectron2 instead of the index's copy
#            LOCKED=1               the versions of requirements.lock, checked by hash, instead of the newest ones
#            EXTRAS=dev,app         optional dependencies of pyproject.toml to install
#            VENV=.venv             where the environment lives
#            JOBS=2                 processes that share the tests

VENV ?= .venv
JOBS ?= 2
INSTALLER ?= auto
EXTRAS ?= dev
DETECTRON2 ?=
LOCKED ?=
BIN := $(VENV)/bin

# What runs the set-up script. Candidates are tried, not only looked up: version managers leave launchers for versions
# that are not active.
BOOTSTRAP := $(or $(shell for candidate in python3.11 python3 python3.12 python3.13 python3.10; do \
	$$candidate -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$candidate && break; done),$(PYTHON))

PYTHONS ?= python3.10 python3.13

.PHONY: export-test install-test install demo docs fuzz kill-test lock test towers

install:
	@test -n "$(BOOTSTRAP)" || { echo "error: no Python 3.10 to 3.13 found; install one (Debian: apt install python3 python3-venv) or name it with PYTHON=" >&2; exit 1; }
	@$(BOOTSTRAP) tools/setup_env.py --venv "$(VENV)" --installer "$(INSTALLER)" --extras "$(EXTRAS)" \
		$(if $(LOCKED),--locked) $(if $(PYTHON),--python "$(PYTHON)") $(if $(DETECTRON2),--detectron2 "$(DETECTRON2)")

demo: install
	$(BIN)/maft demo

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(JOBS)

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

fuzz: install
	MAFT_FUZZ=$(or $(N),2000) $(BIN)/python -m pytest -n $(JOBS) tests/robustness/test_fuzz.py tests/robustness/test_fuzz_models.py

kill-test: install
	MAFT_KILL=$(or $(N),20) $(BIN)/python -m pytest tests/robustness/test_kill.py tests/robustness/test_processes.py \
		tests/robustness/test_full_disk.py

export-test: install
	MAFT_EXPORT=1 $(BIN)/python -m pytest -n $(JOBS) tests/exporting

install-test: install
	$(BIN)/python tools/check_install.py --pythons $(PYTHONS)

towers: install
	$(BIN)/maft towers --check

# setuptools builds the project and uv installs it: they are locked with the rest. FiftyOne is not: it holds OpenCV below 5,
# whose colours differ from the recorded ones.
LOCKED_EXTRAS := app cityscapes dev docs export mlflow sam search slurm supervision towers trackio wandb
lock: install
	printf 'setuptools>=77\nuv\n' | $(or $(wildcard $(BIN)/uv),uv) pip compile --quiet --universal --python-version 3.10 --upgrade \
		--generate-hashes $(addprefix --extra ,$(LOCKED_EXTRAS)) --no-annotate --custom-compile-command "make lock" \
		--output-file requirements.lock pyproject.toml -
