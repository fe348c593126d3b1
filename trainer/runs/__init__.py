"""The run directory: lease, files, manifest, metrics, and loading a finished run."""
