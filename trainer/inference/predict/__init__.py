"""Prediction for files: `reader` reads examples, `batches` groups them, `formatters` writes rows."""
