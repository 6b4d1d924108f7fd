"""What runs inside the packed file; standard library and PyYAML only."""
