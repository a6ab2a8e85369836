"""What the demo has of its own: simulated images."""
