"""`python -m bench <name> [options]`: each benchmark is a module here with ``main(argv)``."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path


def names() -> list[str]:
    """Benchmarks that there are."""
    found = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
    return [name for name in found if not name.startswith("_") and name != "machine"]


def main() -> int:
    """Run the benchmark that is named first, with the remaining arguments."""
    if len(sys.argv) < 2 or sys.argv[1] not in names():
        print(f"usage: python -m bench {{{','.join(names())}}} [--help]", file=sys.stderr)
        return 2
    benchmark = importlib.import_module(f"bench.{sys.argv[1]}")
    return int(benchmark.main(sys.argv[2:]) or 0)


if __name__ == "__main__":
    sys.exit(main())
