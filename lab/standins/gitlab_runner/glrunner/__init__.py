"""Stand-in for gitlab-runner 16.0.1 with the Kubernetes executor: what an outside observer of the chain sees.

Only the standard library is imported, so that the image needs no more than Python and starts at once.
"""

VERSION = "16.0.1"
REVISION = "79704081"


def words(text: str) -> list[str]:
    """A list of names, written as one line of text."""
    return text.split()
