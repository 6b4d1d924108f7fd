"""The stand-in for k3s: its command line around an upstream Kubernetes and Debian's containerd."""
