"""How training runs: devices, the loop, and what is shown meanwhile."""
