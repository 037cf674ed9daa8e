# Longer versions of what `make test` runs bounded; included by the Makefile.
.PHONY: test-fast test-mount soak-model shrink-model

MODEL_SOAK := CUBEFS_MODEL_SHRINK=1 CUBEFS_TEST_LIMIT_S=86400 bash tests/support/run-tests tests/fs/test_model.py

## make test-fast     tests without linters; ARGS='tests/fs -x' names some
test-fast: setup
	@bash tests/support/run-tests $(ARGS)

## make test-mount    tests of the mount with stores on a server: STORE=s3, swift, s3-prefix or s3-append-only
test-mount: setup test-servers
	@CUBEFS_TEST_STORE=$(STORE) bash tests/support/run-tests -n $${CUBEFS_TEST_WORKERS:-2} --dist loadfile \
		$(if $(ARGS),$(ARGS),tests/mount)

## make soak-model    the state machine against the reference model for long, with new seeds
soak-model: setup
	@CUBEFS_MODEL_EXAMPLES=$${CUBEFS_MODEL_EXAMPLES:-3000} CUBEFS_MODEL_STEPS=$${CUBEFS_MODEL_STEPS:-150} \
		$(MODEL_SOAK) --hypothesis-profile=soak

## make shrink-model  when tests/fs/test_model.py has failed: find a short history that fails
shrink-model: setup
	@$(MODEL_SOAK)
