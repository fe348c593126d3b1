"""Arrays of examples and labels: where they are in files, what their names mean, their labels."""
