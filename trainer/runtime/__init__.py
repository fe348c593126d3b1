"""What every run needs of the machine: memory, signals, imports, logs, timers, environment."""
