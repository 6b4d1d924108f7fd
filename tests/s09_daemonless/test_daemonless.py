"""How-to, "Running docker in a pod", end: "a security problem; building with kaniko is recommended"."""

from __future__ import annotations

import pytest

from fixtures.pipeline import DAEMONLESS, BuildMaker


@pytest.mark.steps(f"runner-{DAEMONLESS.setup}")
@pytest.mark.outcome("daemonless/nothing-of-the-host", needs=["daemonless/build/succeeds"])
def test_it_needs_nothing_of_the_host(build_of: BuildMaker) -> None:
    """The safer way builds without privilege, without a path of the host, and without a Docker service.

    How-to, "Running docker in a pod": docker.sock "has certain security problems; kaniko is recommended".
    """
    spec = build_of(DAEMONLESS.setup, DAEMONLESS.name).pod["spec"]
    of_the_host = [v["hostPath"]["path"] for v in spec["volumes"] if "hostPath" in v]
    assert not of_the_host, f"it mounts {of_the_host}"
    contexts = {c["name"]: c.get("securityContext") or {} for c in spec["containers"]}
    privileged = [name for name, context in contexts.items() if context.get("privileged")]
    assert not privileged, f"privileged: {privileged}"
    assert not [name for name in contexts if name.startswith("svc-")], f"services: {sorted(contexts)}"
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        assert not spec.get(name), f"the pod has {name}"
