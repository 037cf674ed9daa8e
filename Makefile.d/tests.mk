# Longer versions of what `make test` runs bounded; included by the Makefile.
.PHONY: test-fast soak-model soak-mutants

## make test-fast   the tests without linters, arguments in ARGS (make test-fast ARGS='tests/fs -x')
test-fast: setup
	@bash tests/support/run-tests $(ARGS)

## make soak-model  the state machine against the reference model for long, with a new seed each time
soak-model: setup
	@CUBEFS_MODEL_EXAMPLES=$${CUBEFS_MODEL_EXAMPLES:-2000} CUBEFS_MODEL_STEPS=$${CUBEFS_MODEL_STEPS:-150} \
		bash tests/support/run-tests tests/fs/test_model.py --hypothesis-profile=soak
