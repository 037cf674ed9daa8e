# The object stores that the tests talk to; see contrib/test-servers.
.PHONY: test-servers

## make test-servers  install the object stores of the tests below build/servers, where they are missing
test-servers: setup
	@bash contrib/test-servers

test test-fast: test-servers
