# The same tasks for fingers used to make; see tasks.py.
.PHONY: run test check bench
run test check bench:
	@python3 tasks.py $@ $(ARGS)
