"""The HTML report of a run, one page a task."""
