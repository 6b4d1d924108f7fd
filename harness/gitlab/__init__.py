"""GitLab, seen from the suite: the client side, and an embedded GitLab for users who bring none."""
