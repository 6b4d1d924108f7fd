"""A virtual machine as its users' hosts are: Debian with systemd, cgroup v2 alone, a firewall and Docker."""
