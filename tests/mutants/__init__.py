"""Breaks the code in known ways, one at a time, and shows which tests notice. `python -m tests.mutants`."""
