"""Workers on a cluster: one Kubernetes Job for each attempt."""
