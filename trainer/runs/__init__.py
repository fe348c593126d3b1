"""Run directories: lease, files, manifest, metrics, and loading of finished runs."""
