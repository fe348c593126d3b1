"""What is left behind: the run directory with the model, its metrics and the manifest."""
