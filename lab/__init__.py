"""The lab: a bundle from package registries, with a real Kubernetes in it. The product never imports it."""
