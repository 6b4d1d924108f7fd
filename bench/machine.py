"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
import re
from datetime import date
from pathlib import Path


def describe() -> str:
    """One line: processor, cores, memory, kernel, load when it began."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    gib = int(memory[1]) / 2**20 if memory else 0
    return (
        f"{date.today()}, {cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores, {gib:.0f} GiB, "
        f"Linux {platform.release()}, load {os.getloadavg()[0]:.1f}"
    )
