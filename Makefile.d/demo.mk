.PHONY: demo

## make demo    back up, snapshot, restore and compare real files in a temporary place (STORE=local, s3 or swift)
demo: setup
	@STORE=$(STORE) $(PY) -m contrib.demo
