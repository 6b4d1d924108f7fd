"""Reports of a run: conformance.json (with a schema), summary.md for a CI page, a self-contained report.html.

Every text passes through ``harness.redact`` on its way out.
"""

from __future__ import annotations

import json
from pathlib import Path

from harness.files import write_whole
from harness.redact import redact
from harness.report.document import conformance_document, schema
from harness.report.page import render_page
from harness.report.summary import render_summary
from harness.verdict import Run, Verdict

__all__ = ["conformance_document", "render_page", "render_summary", "schema", "write_reports"]


def write_reports(run: Run, verdict: Verdict, directory: Path) -> dict[str, Path]:
    """Write the three reports into ``directory`` (made if absent) and return their paths by name.

    Each file is replaced in one step, so a reader never sees half of one. Raises OSError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    document = json.dumps(conformance_document(run, verdict), indent=2, ensure_ascii=False) + "\n"
    texts = {
        "conformance.json": document,
        "summary.md": render_summary(run, verdict),
        "report.html": render_page(run, verdict),
    }
    return {name: _write(directory / name, redact(text)) for name, text in texts.items()}


def _write(path: Path, text: str) -> Path:
    write_whole(path, text)
    return path
