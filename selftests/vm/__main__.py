"""Run the suite in a virtual machine with systemd, cgroup v2, ufw and Docker, and look what it leaves there.

    python -m selftests.vm --bundle DIR [--sections s01_cluster,s02_cert_manager]

Without KVM the processor is emulated: ten to twenty times slower; nothing else should run beside it. Root.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from selftests.vm import image, machine

#: The machine gets a copy: what is edited meanwhile is not what is tested.
_EMULATED_PATIENCE = 10
_NOT_COPIED = shutil.ignore_patterns(".git", ".tox", ".*_cache", "__pycache__", ".hypothesis")


def main() -> int:
    """The command line. Returns 0 when the suite ended CONFORMS and the machine is as before."""
    words = _parser().parse_args()
    if missing := image.missing_tools():
        print(
            f"not to be had here: {', '.join(missing)}; apt-get install {' '.join(missing)}", file=sys.stderr
        )
        return 10
    out = words.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    (out / "seen.json").unlink(missing_ok=True)
    made = image.build(words.cache)
    kernel_words = [f"conformance={words.sections}"] if words.sections else []
    if words.accel == "tcg":
        kernel_words.append(f"patience={_EMULATED_PATIENCE}")
    with tempfile.TemporaryDirectory(prefix="checkout-") as checkout:
        shutil.copytree(image.REPOSITORY, checkout, ignore=_NOT_COPIED, dirs_exist_ok=True)
        shares = machine.Shares(Path(checkout), words.bundle.resolve(), out)
        argv = machine.command(made, shares, words.accel, kernel_words)
        machine.run(argv, out / "console.log", words.timeout * 60)
    return judge(out)


def judge(out: Path) -> int:
    """Say what was seen in the machine; the exit code."""
    try:
        seen = json.loads((out / "seen.json").read_text())
    except FileNotFoundError:
        print(f"the machine did not come so far as to look at itself; {out}/console.log says more")
        return 1
    print(json.dumps(seen["host"], indent=1), seen["doctor"], sep="\n")
    if "suite" not in seen:
        print(f"the suite did not end; {out}/console.log says more")
        return 1
    print(f"the suite ended with exit code {seen['suite']} after {seen['seconds']} s")
    for kind, items in seen["left"].items():
        print(f"not as before: {kind}: {', '.join(items)}")
    return 1 if seen["suite"] or seen["left"] else 0


def _parser() -> argparse.ArgumentParser:
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "runner-conformance/vm"
    parser = argparse.ArgumentParser(prog="python -m selftests.vm", description=__doc__.split("\n")[0])
    parser.add_argument("--bundle", type=Path, required=True, help="what the lab built")
    parser.add_argument("--sections", default="", help="directories of tests/, with commas; all by default")
    parser.add_argument("--out", type=Path, default=Path("vm-report"), help="console, report, what was seen")
    parser.add_argument("--accel", choices=["kvm", "tcg"], default=machine.accelerator())
    parser.add_argument(
        "--timeout", type=float, default=240, help="minutes until the machine is switched off"
    )
    parser.add_argument("--cache", type=Path, default=cache, help="where its disk is kept")
    return parser


if __name__ == "__main__":
    sys.exit(main())
