"""Exports a run's model to other formats: one module per format.

To add a format, write its module as `exporter.py` describes, and add it to `exporter.FORMATS`.
"""
