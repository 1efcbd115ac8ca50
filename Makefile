# Everything bootstraps itself: Python 3.11 or newer, git and make are all that a machine needs. Modules are compiled here,
# not by the first command that imports them, which may be run where nothing can be written.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# What rests on the version of Python and on libraries that are pinned by it (PyAV, Zarr, NumPy): videos, extraction, stores,
# every system's training, and the command line from the first extraction to the last table.
QUICK := $(wildcard tests/stages/test_video*.py) tests/stages/extraction/test_frames.py tests/stages/extraction/test_poses.py \
  tests/cache/test_store.py tests/cache/test_shards.py tests/cache/batches/test_batch_reader.py tests/cache/remote/test_remote_reader.py \
  tests/cache/test_threads.py tests/stages/training/test_loop.py tests/golden/test_golden.py tests/pipeline/test_doctor.py \
  tests/test_cli.py

.PHONY: install demo docs test promises quick check format reliability slurm s3 fuzz compiled coverage bench results clean

install: $(VENV)/.installed
	@test "$(origin PYTHON)" = file -o "$$($(PYTHON) -V)" = "$$($(BIN)/python -V)" || \
	  { echo "$(VENV) holds $$($(BIN)/python -V), not the $$($(PYTHON) -V) of PYTHON: name another folder with VENV=" >&2; exit 1; }

$(VENV)/.installed: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$$(cat .uv-version)"
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	$(BIN)/python -m compileall -q unialign
	touch $@

# Both stages and an ablation on a collection that it renders itself; results in demo/.
demo: install
	$(BIN)/unialign demo

# The documentation as a site, in docs/_build/html; a warning is an error.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -q -W --keep-going docs docs/_build/html

$(VENV)/.docs: docs/requirements.txt $(VENV)/.installed
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r docs/requirements.txt
	touch $@

# Two tests at a time, each network on one thread: what two cores can do. Each worker begins with one half of the tests,
# so that what a module shares is made once, and takes from the other when it is done. Compiled modules are kept even
# where the environment says otherwise: without them every process that a test starts compiles its libraries anew.
test: install
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --ignore tests/reliability

# The tests of the promises of docs/reliability.md in small sizes, which kill, fill, flip and forge; a few minutes.
promises: install
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal tests/reliability

# Two or three minutes on another Python: make quick PYTHON=python3.12 VENV=.venv-3.12
quick: install
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(QUICK)

# Lint, types and import rules. hadolint has wheels for Linux on x86-64 only.
check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	test ! -x $(BIN)/hadolint || $(BIN)/hadolint Dockerfile
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The same in full sizes, two at a time, with a table of counts at the end; a quarter of an hour.
reliability: install
	RELIABILITY=full OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -o timeout=3600 -o faulthandler_timeout=3500 tests/reliability

# A real SLURM in this one machine (apt-get install slurmctld slurmd slurm-client munge; as root): jobs whose walltime ends,
# and an array of joining jobs; five minutes, most of them waiting.
slurm: install
	@command -v slurmctld slurmd munged sbatch > /dev/null || \
	  { echo "make slurm needs: apt-get install slurmctld slurmd slurm-client munge" >&2; exit 1; }
	SLURM=full OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/reliability/test_slurm.py

# Caches in object storage on a real server, Ceph's gateway with one OSD in memory (apt-get install radosgw ceph-mon ceph-osd
# ceph-common; as root); two minutes.
s3: install
	@command -v radosgw ceph ceph-mon ceph-osd > /dev/null || \
	  { echo "make s3 needs: apt-get install radosgw ceph-mon ceph-osd ceph-common" >&2; exit 1; }
	S3=ceph OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/pipeline/extraction/test_object_storage.py \
	  tests/pipeline/exchange/test_remote_export.py tests/pipeline/extraction/test_remote_sources.py

# 200,000 stores that were changed and signed again, two processes at a time; a quarter of an hour.
fuzz: install
	FUZZ=full OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -o timeout=3600 -o faulthandler_timeout=3500 \
	  tests/reliability/test_strangers.py

# The golden losses of all systems, trained through torch.compile; a quarter of an hour, and a C++ compiler is needed.
compiled: install
	COMPILED=full OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -o timeout=1800 -o faulthandler_timeout=1700 \
	  tests/golden/test_compiled.py

# All tests once more; fails where they leave out a branch of the cache.
coverage: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --cov=unialign.cache --cov-branch --cov-report=term-missing:skip-covered \
	  --cov-fail-under=100

# Speed of reading a cache, beside a plain memory map and per-sample Zarr.
bench: install
	$(BIN)/python benchmarks/loader.py
	$(BIN)/python benchmarks/ragged.py
	$(BIN)/python benchmarks/windows.py
	$(BIN)/python benchmarks/million.py
	$(BIN)/python benchmarks/writing.py --shard-samples 512 --workloads light
	$(BIN)/python benchmarks/remote.py
	$(BIN)/python benchmarks/steps.py
	$(BIN)/python benchmarks/switches.py
	$(BIN)/python benchmarks/dvta.py
	$(BIN)/python benchmarks/training_loader.py
	$(BIN)/python benchmarks/startup.py

# The tables of docs/encoders.md, from the figures that benchmarks/encoders.py keeps in benchmarks/results/.
results: install
	$(BIN)/python benchmarks/results.py

clean:
	rm -rf .venv .venv-3.* demo build dist *.egg-info
