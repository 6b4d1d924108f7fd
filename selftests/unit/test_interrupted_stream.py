"""A run that is interrupted while it opens a stream into a pod ends, as anywhere else."""

from __future__ import annotations

import pytest
from kubernetes.client.exceptions import ApiException

from harness.kube_errors import ApiUnreachable, api_errors


def stream(error: BaseException) -> None:
    """As the client's websocket_call does."""
    try:
        raise error
    except (Exception, KeyboardInterrupt, SystemExit) as caught:
        raise ApiException(status=0, reason=str(caught))  # noqa: B904 - it keeps no cause


def test_a_signal_is_no_answer_of_the_api_server() -> None:
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"), api_errors("port-forward to operators/x"):
        stream(KeyboardInterrupt("SIGTERM"))


def test_a_connection_that_fails_is() -> None:
    with pytest.raises(ApiUnreachable), api_errors("port-forward to operators/x"):
        stream(ConnectionRefusedError("nobody"))
