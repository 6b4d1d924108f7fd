"""Long messages in one line without losing what they say."""

from __future__ import annotations

LIMIT_CHARS = 400
_HEAD_CHARS = 140
_AROUND_CHARS = 60
_GAP = " … "


def short(text: str, keep: tuple[int, int] | None = None, limit: int = LIMIT_CHARS) -> str:
    """``text`` in one line of at most ``limit`` characters; ``keep``: the span that must survive whole.

    Where it is too long, its beginning, its end and the span to be kept stay: an error that was often
    wrapped ends with its cause, and a rule has found the words that decide wherever they are.
    """
    if keep is not None:
        begin = len(" ".join(text[: keep[0]].split()))
        keep = (begin, begin + keep[1] - keep[0])
    flat = " ".join(text.split())
    if len(flat) <= limit:
        return flat
    head = min(_HEAD_CHARS, limit // 3)
    if keep is None:
        return f"{flat[:head]}{_GAP}{flat[head + len(_GAP) - limit :]}"
    start, end = max(0, keep[0] - _AROUND_CHARS), min(len(flat), keep[1] + _AROUND_CHARS)
    end = min(end, start + limit - head - len(_GAP))
    if start <= head + len(_GAP):
        tail = limit - end - len(_GAP)
        return (
            f"{flat[:end]}{_GAP}{flat[len(flat) - tail :]}"
            if tail > _AROUND_CHARS
            else f"{flat[: limit - 1]}…"
        )
    tail = limit - head - (end - start) - 2 * len(_GAP)
    if end >= len(flat) - max(tail, 0):
        return f"{flat[:head]}{_GAP}{flat[head + len(_GAP) - limit :]}"
    if tail < _AROUND_CHARS:
        return f"{flat[:head]}{_GAP}{flat[start : limit - head - len(_GAP) + start - 1]}…"
    return f"{flat[:head]}{_GAP}{flat[start:end]}{_GAP}{flat[len(flat) - tail :]}"
