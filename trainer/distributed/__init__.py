"""Devices and workers: selection, cluster environment, rendezvous and collectives."""
