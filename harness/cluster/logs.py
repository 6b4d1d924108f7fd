"""What a node's logs say of its end."""

from __future__ import annotations

import re
from pathlib import Path

_LINES = 25
#: How k3s (logrus), Kubernetes (klog), Go itself and a command line say that this is the end.
_LAST_WORDS = re.compile(
    r"level=(?:fatal|panic)|^(?:F\d{4} |FATA\[|panic: |fatal error: |Incorrect Usage|Error: )"
)
_LOGRUS_MESSAGE = re.compile(r'msg="((?:[^"\\]|\\.)*)"')
_AROUND = 5


def tail(path: Path, lines: int = _LINES) -> str:
    """The last lines of a log, and before them those around its last words where a long dump follows these.

    Empty if there is no such file.
    """
    text = _read(path)
    last = max(0, len(text) - lines)
    said = _place_of_last_words(text)
    if said is None or said >= last:
        return "\n".join(text[last:])
    begin, end = max(0, said - _AROUND), min(said + _AROUND, last)
    gap = ["..."] if end < last else []
    return "\n".join([*text[begin:end], *gap, *text[last:]])


def cause(path: Path) -> str:
    """The line in which a program says why it ends, without its stamp; empty if there is none."""
    text = _read(path)
    said = _place_of_last_words(text)
    if said is None:
        return ""
    found = _LOGRUS_MESSAGE.search(text[said])
    return found[1].replace('\\"', '"').replace("\\n", " ") if found else text[said].strip()


def _read(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _place_of_last_words(text: list[str]) -> int | None:
    return next((at for at in reversed(range(len(text))) if _LAST_WORDS.search(text[at])), None)
