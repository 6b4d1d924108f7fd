"""Builds a bundle from package registries alone, with a real Kubernetes in it; the product never imports it."""
