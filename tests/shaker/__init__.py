"""A relay that is shaken: random delays, everybody comes and goes, each viewer is judged. `python -m tests.shaker`."""
