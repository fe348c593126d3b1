"""Writes training progress to the terminal, TensorBoard and Vertex AI tuning."""
