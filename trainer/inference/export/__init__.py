"""Exports a run's model to another format: one file per format, one line in `exporter.FORMATS`."""
