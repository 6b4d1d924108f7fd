"""kind in full: a host with a docker engine of its own, on which the suite makes kind clusters."""
