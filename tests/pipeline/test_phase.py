"""Every transition of the state machine, against the rules in words."""

from __future__ import annotations

from itertools import product

import pytest

from kvpress.pipeline.phase import Act, Phase, Reader, Stage

BOTH = (False, True)


@pytest.mark.parametrize(
    ("reader", "holds", "eager", "patient", "released"),
    [
        (Reader.NOBODY, False, False, Reader.NOBODY, Reader.NOBODY),
        (Reader.WHOLE, False, True, Reader.NOBODY, Reader.WHOLE),
        (Reader.CHUNK, True, False, Reader.CHUNK, Reader.NOBODY),
        (Reader.LAST, True, True, Reader.CHUNK, Reader.WHOLE),
    ],
)
def test_readers(reader: Reader, holds: bool, eager: bool, patient: Reader, released: Reader) -> None:
    assert (reader.holds, reader.eager, reader.patient, reader.released) == (holds, eager, patient, released)


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("reader", Reader)
def test_before_tokens_come(stage: Stage, reader: Reader) -> None:
    """A single token that is no chunk ends the prompt before it; nothing else fires then."""
    for new in (1, 2, 50):
        fires = new == 1 and stage is Stage.WAITING and reader in (Reader.NOBODY, Reader.WHOLE)
        assert Phase(stage, reader).before(new) is (Act.FIRE if fires else Act.NOTHING)


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("reader", Reader)
@pytest.mark.parametrize("fired", [0, 1, 3])
def test_after_tokens_came(stage: Stage, reader: Reader, fired: int) -> None:
    for new, again, between, alone, ends in product((1, 7), BOTH, BOTH, BOTH, BOTH):
        phase = Phase(stage, reader, fired, since=4)
        act = phase.after(new, again, between, alone, ends)
        prompt = new > 1 or fired == 0 or reader in (Reader.CHUNK, Reader.LAST)
        assert phase.reads(new) == prompt and phase.fired == fired and phase.since == 4 + (0 if prompt else new)
        if not prompt and stage is Stage.WAITING:  # a prompt is complete, and its press waits for others
            assert (phase.stage, act) == (Stage.WAITING, Act.NOTHING)
        elif not prompt:
            assert (phase.stage, act) == (Stage.DUE, Act.STEP if ends else Act.NOTHING)
        else:
            chooses = stage is Stage.WAITING or fired == 0 or again
            wanted = Stage.WAITING if chooses else Stage.DUE if between else Stage.IDLE
            assert phase.stage is wanted
            now = {Stage.WAITING: Act.FIRE, Stage.DUE: Act.STEP, Stage.IDLE: Act.NOTHING}[wanted]
            assert act is (now if alone and reader in (Reader.WHOLE, Reader.LAST) else Act.NOTHING)


@pytest.mark.parametrize("stage", Stage)
def test_done(stage: Stage) -> None:
    phase = Phase(stage, fired=2, since=9)
    phase.done(fired=False)
    assert (phase.stage, phase.fired, phase.since) == (Stage.IDLE, 2, 9)
    phase.done(fired=True)
    assert (phase.stage, phase.fired, phase.since) == (Stage.IDLE, 3, 0)


def test_intervals() -> None:
    assert [Phase(since=since).due(3) for since in range(5)] == [False, False, False, True, True]
    assert not any(Phase(since=since).due(0) for since in range(5))


def test_it_knows_no_tensors() -> None:
    from kvpress.pipeline import phase

    assert "torch" not in (phase.__doc__ or "") and not hasattr(phase, "torch")
