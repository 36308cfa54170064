"""Random faults for as long as you like, over many sessions; what was promised is counted. `python -m tests.soak`."""
