"""What a command says when one of its processes has gone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import lightning_fabric
import pytest
import torch
import typer

from decompose_cli.cli.console import Terminal
from decompose_cli.cli.guard import expected_errors
from decompose_cli.errors import DecomposeError
from decompose_cli.processes.cluster import Machines
from decompose_cli.processes.launch import start
from decompose_cli.processes.lost import LOST
from decompose_cli.processes.team import is_lost_connection
from decompose_cli.training.runner import _to_be_resumed


@pytest.mark.parametrize("lost", [False, True])
def test_an_interrupt_for_a_lost_process_is_told_from_the_users(
    lost: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LOST, "is_set", lambda: lost)
    with pytest.raises(typer.Exit) as ended, expected_errors(Terminal(), debug=False):
        raise KeyboardInterrupt
    assert ended.value.exit_code == (1 if lost else 130)
    said = " ".join(capsys.readouterr().err.split())
    assert ("A process of this command has ended before its work was done" in said) is lost
    assert ("Interrupted" in said) is not lost


def test_errors_of_connections_are_told_from_others() -> None:
    gone = RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:10902")
    assert is_lost_connection(gone)
    assert is_lost_connection(torch.distributed.DistBackendError("NCCL communicator was aborted"))
    assert not is_lost_connection(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize(("begun", "advice"), [(True, "resume"), (False, "start the command again")])
def test_a_training_that_loses_a_process_says_how_it_goes_on(begun: bool, advice: str) -> None:
    session: Any = SimpleNamespace(
        fabric=SimpleNamespace(world_size=2), is_begun=begun, folder=SimpleNamespace(path="there")
    )
    with pytest.raises(DecomposeError) as refusal, _to_be_resumed(session):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer")
    assert refusal.value.message == "Another process of this command ended before its work was done."
    assert refusal.value.advice is not None
    assert advice in refusal.value.advice
    assert ("there." in refusal.value.advice) is begun
    session.fabric.world_size = 1
    with pytest.raises(RuntimeError, match="gloo"), _to_be_resumed(session):
        raise RuntimeError("gloo")


def test_a_process_that_goes_while_all_start_is_told_of_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(_: Any) -> None:
        raise torch.distributed.DistNetworkError("Connection reset by peer")

    monkeypatch.setattr(lightning_fabric.Fabric, "launch", lost)
    with pytest.raises(DecomposeError, match="Another process of this command ended"):
        start("cpu", Machines(2))
