"""One self-contained page with the results of a run, and its charts as files."""
