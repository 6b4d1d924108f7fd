"""A kind cluster (Kubernetes in Docker): engine, program, the node's files, and the cluster."""
