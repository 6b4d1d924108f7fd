"""Stand-in for gitlab-runner with the Kubernetes executor: what an outside observer of the chain sees.

Only the standard library is imported, so that the image needs no more than Python and starts at once.
"""

from .release import HERE as RELEASE

VERSION, REVISION = RELEASE.version, RELEASE.revision


def words(text: str) -> list[str]:
    """A list of names, written as one line of text."""
    return text.split()
