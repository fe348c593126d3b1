"""What `trainer predict` is made of: examples of any number of files, in batches, to rows."""
