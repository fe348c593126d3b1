"""The model of a finished run behind HTTP; `commands/serve.py` starts it."""
