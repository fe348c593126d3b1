"""Uses of a finished run: evaluate, predict, serve and export."""
