# The same tasks for fingers used to make; see tasks.py.
.PHONY: run test check bench mutants soak
run test check bench mutants soak:
	@python3 tasks.py $@ $(ARGS)
