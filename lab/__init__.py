"""The lab: makes a bundle from package registries, with a real Kubernetes in it. Never imported by the product."""
