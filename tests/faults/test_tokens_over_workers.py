"""Delegation tokens of a gateway of several workers: made at one, known to the others, and there after a kill."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, Final

from tests.faults.gateway_process import EAGER, Gateway
from tests.faults.test_workers import until, workers
from tests.gateway.launching import free_ports
from tests.likeness.tokens import PLAIN, SCRAM, SETTINGS, Speaker
from tests.patience import Patience

KNOWN_WITHIN_S: Final = 5.0
SECURED: Final = {
    **EAGER,
    **SETTINGS,
    "workers": 2,
    "containers": 2,
    "listener.security.protocol.map": "PLAINTEXT:SASL_PLAINTEXT",
    "sasl.enabled.mechanisms": f"{PLAIN},{SCRAM}",
    "sasl.jaas.config": 'PlainLoginModule required user_alice="alice-secret";',
    "connection.failed.authentication.delay.ms": 1,
}
NONE: Final = {"owner_principal_type": None, "owner_principal_name": None, "renewers": [], "max_lifetime": -1}


def comes(address: str, made: dict[str, Any]) -> bool:
    """Does the token let in at this worker?"""
    speaker = Speaker(address, "", (made["token_id"], bytes.fromhex(made["hmac"])))
    try:
        return speaker.said("DescribeCluster", 0, {})["error_code"] == 0
    except (PermissionError, ConnectionError):
        return False
    finally:
        speaker.close()


def soon(gateway: Gateway, address: str, made: dict[str, Any], *, lets_in: bool) -> None:
    """The other worker knows it within a second, but for a slow machine."""
    patience = Patience(KNOWN_WITHIN_S, lambda: [os.getpid(), gateway.pid, *workers(gateway)])
    while comes(address, made) is not lets_in:
        assert not patience.is_over(), f"lets in: {not lets_in}, after {patience}"


def test_over_workers(tmp_path: Path) -> None:
    """A token lets in at each worker, also after one was killed; ended at any of them, it lets in nowhere."""
    with Gateway(tmp_path, SECURED) as gateway:
        gateway.listen(f"127.0.0.1:{free_ports(4)}")
        gateway.http = "127.0.0.1:0"
        gateway.start()
        one, other = gateway.ready["kafka"]
        alice, alice_there = Speaker(one, "alice"), Speaker(other, "alice")
        made = alice.said("CreateDelegationToken", 3, NONE)
        assert made["error_code"] == 0
        assert comes(one, made)
        soon(gateway, other, made, lets_in=True)

        before = workers(gateway)
        os.kill(before[1], signal.SIGKILL)
        until(lambda: len(workers(gateway)) == 2 and workers(gateway)[1] != before[1], "the worker is back")
        until(lambda: comes(other, made), "the token lets in")

        alice_there.close()
        secret = bytes.fromhex(made["hmac"])
        ended = alice_there.said("ExpireDelegationToken", 2, {"hmac": secret, "expiry_time_period": -1})
        assert ended["error_code"] == 0
        assert not comes(other, made)
        soon(gateway, one, made, lets_in=False)
        alice.close()
        alice_there.close()
