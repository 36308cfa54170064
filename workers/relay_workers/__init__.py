"""Workers: they take a job, ask a model, and append its answer to the session's log."""
