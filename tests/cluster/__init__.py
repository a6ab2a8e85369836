"""A Kubernetes cluster in miniature: its API over HTTP, and pods that are processes of this machine."""
