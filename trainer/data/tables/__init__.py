"""How tables are read: rows of any kind of file, what their columns hold, which are read."""
