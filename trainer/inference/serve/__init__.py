"""Serves a finished run's model over HTTP; `trainer/cli/serve.py` starts it."""
