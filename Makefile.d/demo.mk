.PHONY: demo

## make demo    back up, snapshot, restore and compare real files in a temporary place
demo: setup
	@$(PY) -m contrib.demo
