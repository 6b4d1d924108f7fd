"""The stand-in for k3s: a launcher with k3s's command line around an upstream Kubernetes and Debian's containerd."""
