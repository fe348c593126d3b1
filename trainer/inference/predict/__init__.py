"""Predictions for files: `reader` reads examples, `batches` groups them, `formatters` makes rows."""
