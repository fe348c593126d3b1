"""Predictions for files: `reader` reads examples, `batches` groups, `formatters` writes rows."""
