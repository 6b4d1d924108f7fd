"""Files and labels of images beside a stack that was found, where the user names a bundle of them."""

from __future__ import annotations

from pathlib import Path

from harness.artifacts import ONLINE, Artifacts, open_artifacts
from harness.profile import load_profile


def artifacts_beside(choice: str) -> Artifacts:
    """The artifacts that ``--artifacts`` names, whatever the versions on the cluster. Nothing is downloaded.

    Raises UsageError for a directory that is no bundle.
    """
    if choice == "auto" or choice in ONLINE or not Path(choice).exists():
        return open_artifacts(choice, load_profile("seed"), build=False)
    from harness.artifacts.bundle import Bundle
    from harness.artifacts.directory import BundleArtifacts

    bundle = Bundle.open(Path(choice).resolve())
    return BundleArtifacts(bundle, load_profile(bundle.profile), why="for the labels of its images")
