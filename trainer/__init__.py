"""One command trains a model on your data and leaves behind a model you can trust."""

__version__ = "0.1.0"
