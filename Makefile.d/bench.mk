.PHONY: bench bench-packages

bench-packages: setup
	@bash contrib/bench-packages build/bench

## make bench   measure beside libfuse's passthrough_ll, restic and borg (QUICK=1, ROUNDS=3, PARTS="mounted metadata remote")
bench: bench-packages
	@$(PY) -m tests.bench.run
