"""Programs that users would write without this package; each is a script for one process."""
