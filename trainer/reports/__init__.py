"""HTML pages: the report of a run, comparisons of runs, and data statistics."""
