"""A training job before and around the loop: setup, auto settings, dry run, folds."""
