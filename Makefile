# Two commands do everything on a fresh machine: `make demo` and `make test`.
BIN = .venv/bin

.PHONY: demo run check test campaigns bench bench-peers bench-retrieval bench-abuse pictures page-bench api-docs setup setup-dev lock samples clean

setup:            ## apt packages, virtual environment, pinned requirements
	@bash bin/setup requirements.lock

setup-dev:        ## the same with what tests need
	@bash bin/setup requirements-dev.lock

demo: setup       ## the main job end to end; PDF=path for your own file, KILL=1 kills the worker
	@$(BIN)/python demo.py $(PDF) $(if $(KILL),--kill)

run: setup        ## the app, for a person
	@$(BIN)/python app.py

check: setup-dev  ## the fast loop: format, lint, types, structure, fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 -m "not slow and not browser"

test: setup-dev   ## everything that CI runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not browser and not campaign"
	$(BIN)/python -m pytest -n 2 --dist loadfile -m browser

campaigns: setup-dev  ## long runs of what `make test` samples: damage, faults, kills, flips, two writers (hours)
	$(BIN)/python -m pytest -q -n 2 -m campaign
	QUIRE_TEST_SEQUENCES=3000 $(BIN)/python -m pytest -q -s -n 2 tests/campaigns tests/test_quota.py tests/test_local_state.py tests/test_damaged_files.py
	$(BIN)/python -m bench.store_faults
	$(BIN)/python -m bench.store_kills
	$(BIN)/python -m bench.store_flips
	$(BIN)/python -m bench.store_pairs
	$(BIN)/python -m bench.store_reads
	$(BIN)/python bench/kills.py

bench: setup-dev  ## the numbers, beside other readers; PDF=path for your own, CORPUS=folder SCORER=script
	$(BIN)/python bench/run.py $(PDF) $(if $(CORPUS),--corpus $(CORPUS)) $(if $(SCORER),--scorer $(SCORER))

bench-peers:      ## other readers to print beside us, in an environment of their own
	@bash bin/peers

bench-retrieval: setup-dev  ## which pages and places are found, beside BM25 of pages; FOLDER=pdfs and questions
	$(BIN)/python bench/retrieval.py $(FOLDER)

bench-abuse: setup-dev  ## what abuse by visitors costs a signed-in person; MINUTES=30
	$(BIN)/python bench/abuse.py --minutes $(or $(MINUTES),30)

pictures: setup-dev  ## docs/pictures from the real page; PDF="a.pdf b.pdf" adds your own
	$(BIN)/python bench/pictures.py $(PDF)

api-docs: setup-dev  ## docs/api.md from the endpoints
	$(BIN)/python bin/api.py

page-bench: setup-dev  ## what the page costs: search, pictures, watchers, visits, stop
	$(BIN)/python bench/page.py $(PDF)

COMPILE = $(BIN)/uv pip compile -q --no-annotate --custom-compile-command "make lock"
lock: setup-dev   ## the pinned trees anew, after a change of requirements.in, requirements-dev.txt or tests/swift/requirements.in
	$(COMPILE) --universal --python-version 3.11 --generate-hashes requirements.in -o requirements.lock
	$(COMPILE) --universal --python-version 3.11 --generate-hashes requirements.lock requirements-dev.txt -o requirements-dev.lock
	$(COMPILE) --python-version 3.12 --python-platform x86_64-manylinux_2_28 -c requirements.lock requirements.in -o requirements.txt
	$(COMPILE) --python-version 3.11 --no-deps --generate-hashes tests/swift/requirements.in -o tests/swift/requirements.txt

samples: setup-dev
	PYTHONPATH=. $(BIN)/python -m tests.samples samples

clean:
	rm -rf .venv .venv-swift .venv-swift.lock demo-data .pytest_cache .mypy_cache .ruff_cache .hypothesis
