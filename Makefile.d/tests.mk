# Longer versions of what `make test` runs bounded; included by the Makefile.
.PHONY: test-fast soak-model shrink-model

MODEL_SOAK := CUBEFS_MODEL_SHRINK=1 CUBEFS_TEST_LIMIT_S=86400 bash tests/support/run-tests tests/fs/test_model.py

## make test-fast     tests without linters; ARGS='tests/fs -x' names some
test-fast: setup
	@bash tests/support/run-tests $(ARGS)

## make soak-model    the state machine against the reference model for long, with new seeds
soak-model: setup
	@CUBEFS_MODEL_EXAMPLES=$${CUBEFS_MODEL_EXAMPLES:-3000} CUBEFS_MODEL_STEPS=$${CUBEFS_MODEL_STEPS:-150} \
		$(MODEL_SOAK) --hypothesis-profile=soak

## make shrink-model  when tests/fs/test_model.py has failed: find a short history that fails
shrink-model: setup
	@$(MODEL_SOAK)
