"""Launches jobs on Vertex AI (custom and tuning jobs), and writes Kubernetes Jobs."""
