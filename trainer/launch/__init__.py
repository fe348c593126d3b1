"""Jobs on other people's machines: Vertex AI's custom and tuning jobs, and Kubernetes Jobs."""
