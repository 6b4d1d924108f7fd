"""cert-manager's release manifest, rendered from the chart in its Go module as the release's makefile does.

`make/manifests.mk` of cert-manager: namespace, then the CRDs, then the chart with `creator=static` and
without startupapicheck, which only Helm users get.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from lab.gobuild import module_source
from lab.steps import BuildStep, Work


def manifest_step(
    version: str, module: Path, import_path: str, *, kubernetes: str, chart: BuildStep
) -> BuildStep:
    """A step that makes `cert-manager.yaml` of that version; `module` has the go.mod that requires it."""
    return BuildStep(
        f"cert-manager manifest {version}",
        _render,
        params={"version": version, "import": import_path, "kubernetes": kubernetes},
        sources=[module],
        needs=[chart],
    )


def _render(work: Work) -> None:
    version, import_path = work.step.params["version"], work.step.params["import"]
    source = module_source(work, work.step.sources[0], import_path) / "deploy"
    chart = _chart(
        work, "chart", source, version, sorted((source / "charts/cert-manager/templates").iterdir())
    )
    crds = _chart(work, "crds", source, version, sorted((source / "crds").glob("crd-*.yaml")))
    namespace = (source / "manifests/namespace.yaml").read_text()
    parts = [namespace, _template(work, crds), _template(work, chart)]
    (work.out / "cert-manager.yaml").write_text("---\n".join(part.removeprefix("---\n") for part in parts))


def _chart(work: Work, name: str, source: Path, version: str, templates: list[Path]) -> Path:
    """A chart directory with the given templates (and always the helper definitions)."""
    original = source / "charts/cert-manager"
    chart = work.scratch(name)
    (chart / "templates").mkdir()
    for template in [*templates, original / "templates/_helpers.tpl"]:
        if template.suffix in (".yaml", ".tpl"):
            shutil.copyfile(template, chart / "templates" / template.name)
    shutil.copyfile(original / "values.yaml", chart / "values.yaml")
    text = (original / "Chart.template.yaml").read_text()
    lines = [
        f"{key}: {version}" if (key := line.partition(":")[0]) in ("version", "appVersion") else line
        for line in text.splitlines()
    ]
    (chart / "Chart.yaml").write_text("\n".join(lines) + "\n")
    return chart


def _template(work: Work, chart: Path) -> str:
    program = work.path(work.step.needs[0]) / "chart"
    # the chart asks for a Kubernetes that Helm, which is not talking to one, would otherwise make up
    where = [work.step.params["kubernetes"], "cert-manager", "cert-manager"]
    return work.run([program, *where, chart, "creator=static", "startupapicheck.enabled=false"])
