"""Every keyword of GitLab's published schema of ``.gitlab-ci.yml``: handled here, or refused by name.

By place: ``""`` is the top of the file; what stands below a refused keyword is refused with it. The test
beside it (selftests/gitlab/test_keywords.py) goes through all names of the schema.
"""

from __future__ import annotations

HANDLED: dict[str, str] = {
    "": "stages variables default image services before_script after_script",
    "default": "image services before_script after_script tags timeout",
    "job": "image services before_script after_script tags timeout script stage variables allow_failure when "
    "rules only",
    "image": "name entrypoint pull_policy",
    "services": "name entrypoint pull_policy alias command variables",
    "variables": "value description",
    "rules": "if when allow_failure variables",
    "only": "refs",
    "allow_failure": "exit_codes",
}
REFUSED: dict[str, str] = {
    "": "!reference $schema cache include pages spec workflow",
    "default": "!reference artifacts cache hooks id_tokens identity interruptible retry",
    "job": "artifacts cache coverage dast_configuration dependencies environment except extends hooks "
    "id_tokens identity inherit inputs interruptible manual_confirmation needs pages parallel publish "
    "release resource_group retry run secrets start_in trigger",
    "image": "docker kubernetes",
    "services": "docker kubernetes",
    "variables": "expand options",
    "rules": "changes exists interruptible needs start_in",
    "only": "changes kubernetes variables",
    "allow_failure": "",
}


def sorted_out(place: str, given: list[str]) -> tuple[list[str], list[str]]:
    """Of the keys given at ``place``: those that are refused by name, and those that GitLab doesn't know."""
    refused = REFUSED[place].split()
    unknown = [key for key in given if key not in refused and key not in HANDLED[place].split()]
    return [key for key in given if key in refused], unknown
