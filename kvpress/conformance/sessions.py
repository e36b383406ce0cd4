"""Checks of a whole press on the tiny model: the same tokens, rows, turns and prompts, and a model left as it was."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_utils import PreTrainedModel as Base

from kvpress.conformance.case import Case, decode, gap, kept, rollout, tokens
from kvpress.conformance.trial import BrokenError, InapplicableError, Trial
from kvpress.recipe.press import Part, Press

_DENSE = {"keep", "scorer", "heads", "layers", "refine", "schedule", "sinks", "recent", "positions"}
_NEVER = 100_000  # slots: a budget that is not reached


def keeping_all(press: Press, keep: float | int) -> Press:
    """The press with nothing dropped and dense storage. Raises InapplicableError for one that cannot be that."""
    from kvpress.recipe.press import PRESETS

    parts = []
    for part in press.parts:
        decided = set(part.decisions())
        if not decided <= _DENSE and "scorer" in decided:
            raise InapplicableError(f"{part.name} decides slots and storage at once")
        if decided <= _DENSE:
            given = dict(part.given)
            if "keep" in PRESETS[part.name].signature.parameters:
                given["keep"] = keep
            elif "scorer" in decided:
                raise InapplicableError(f"{part.name} has no argument `keep`")
            parts.append(Part(part.name, tuple(given.items())))
    if not any("scorer" in part.decisions() for part in parts):
        raise InapplicableError("nothing is evicted")
    return Press(tuple(parts))


def _identity(case: Case) -> str:
    (ids, mask), model = case.batch, case.model
    ways: dict[str, dict[str, Any]] = {"at once": {}, "in chunks": {"prefill_chunk_size": 7}}
    prompts = (("padded", ids, mask), ("even", ids[:, -17:], torch.ones_like(ids[:, -17:])))
    presses = [keeping_all(case.press, keep) for keep in (1.0, _NEVER)]
    for name, prompt, real in prompts:
        for way, how in ways.items():
            run = {"attention_mask": real, "max_new_tokens": 5, "do_sample": False, **how}
            wanted = model.generate(prompt, **run)
            for press in presses:
                with press(model):
                    got = model.generate(prompt, **run)
                if not torch.equal(got, wanted):
                    raise BrokenError(f"{press} gives other tokens than no press ({name} batch, prompt read {way})")
    return f"{presses[0]} generates what no press does, padded and in chunks"


def _rows_alone(case: Case) -> str:
    (ids, mask), follow = case.batch, tokens(3, case.steps, 1)
    width, worst = ids.shape[1], 0.0
    with case.press(case.model) as session:
        together, cache = rollout(session, ids, follow, mask)
        held = kept(cache)
        for number, row in enumerate(case.rows):
            single, own = rollout(session, row[None], follow[number : number + 1])
            pad = width - len(row)
            mine = [[[p - pad for p in head] for head in layer[number]] for layer in held]
            if mine != [layer[0] for layer in kept(own)]:
                raise BrokenError(f"row {number} keeps other slots in a padded batch than alone")
            worst = max(worst, gap(together[number], single[0]))
    if worst > case.tolerance:
        raise BrokenError(f"logits of a row in a padded batch are off by {worst:.2g}")
    return f"three rows keep the slots they keep alone; logits within {worst:.1g}"


def _chunks(case: Case) -> str:
    ids, follow, worst = case.rows[0][None], tokens(1, 4, 1), 0.0
    with case.press(case.model) as session:
        wanted, cache = rollout(session, ids, follow)
        for chunk in (7, case.length - 1):
            got, other = rollout(session, ids, follow, chunk=chunk)
            if kept(other) != kept(cache):
                raise BrokenError(f"a prompt read in chunks of {chunk} keeps other slots than one read at once")
            worst = max(worst, gap(got, wanted))
    if worst > case.tolerance:
        raise BrokenError(f"a prompt read in chunks gives logits that are off by {worst:.2g}")
    return "a prompt read in chunks is the prompt"


def _turns(case: Case) -> str:
    model, ids, question = case.model, case.rows[1][None], tokens(1, 6, 1)
    how: dict[str, Any] = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    with case.press(model) as session:
        first = model.generate(ids, max_new_tokens=5, **how)
        cache = first.past_key_values
        whole = torch.cat([first.sequences, question], 1)
        seen = cache.get_seq_length()
        if seen != ids.shape[1] + 4:
            raise BrokenError(f"the cache says it has seen {seen} tokens, expected {ids.shape[1] + 4}")
        fork = cache.fork()
        second = model.generate(whole, past_key_values=cache, max_new_tokens=4, **how)
        by_hand = session.prefill(whole[:, seen:], cache=fork).next_logits
        assert by_hand is not None
        if gap(second.logits[0], by_hand) > 1e-4:
            raise BrokenError("a second turn by generate and one by session.prefill differ")
        if not bool(torch.isfinite(torch.stack(second.logits)).all()):
            raise BrokenError("logits of a second turn are not finite")
    return "a second turn goes on where the first ended"


def _forks(case: Case) -> str:
    model, follow = case.model, tokens(1, case.steps, 1)
    with case.press(model) as session:
        cache = session.prefill(case.rows[0][None])
        fork, rows = cache.fork(), cache.fork(rows=2)
        wanted = decode(model, cache, follow)
        if gap(decode(model, fork, follow), wanted):
            raise BrokenError("a fork continues otherwise than its original")
        twice = decode(model, rows, follow.expand(2, -1))
    away = gap(twice, wanted.expand(2, -1, -1))
    if away > case.tolerance:
        raise BrokenError(f"a fork of two rows continues otherwise than its original, by {away:.2g}")
    return "forks continue as their original"


def _state(model: PreTrainedModel) -> dict[str, Any]:
    return {
        "attention": [m.config._attn_implementation for m in model.modules() if isinstance(m, Base)],
        "config": model.config.to_dict(),
        "attributes": {name: sorted(vars(m)) for name, m in model.named_modules()},
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        "forward": [m.__dict__.get("forward") for m in model.modules()],
        "dtype and gradients": (torch.get_default_dtype(), torch.is_grad_enabled()),
    }


def _restored(case: Case) -> str:
    model, ids = case.model, case.rows[2][None]
    before, logits = _state(model), model(ids).logits
    try:
        with case.press(model) as session:
            session.prefill(ids)
            raise InterruptedError
    except InterruptedError:
        pass
    changed = [name for name, value in _state(model).items() if value != before[name]]
    if changed or gap(model(ids).logits, logits):
        raise BrokenError(
            f"leaving the press, after an exception in its block, changed: {', '.join(changed) or 'logits'}"
        )
    return "model as before, after an exception in the block"


def _same_twice(case: Case) -> str:
    (ids, mask), follow = case.batch, tokens(3, 5, 1)
    state = torch.get_rng_state()
    with case.press(case.model) as session:
        first, cache = rollout(session, ids, follow, mask)
        rollout(session, tokens(2, case.length - 6, 5), tokens(2, 3, 6))
        again, other = rollout(session, ids, follow, mask)
    if gap(first, again) or kept(cache) != kept(other):
        raise BrokenError("the same prompts give something else after another prompt was read")
    if not torch.equal(torch.get_rng_state(), state):
        torch.set_rng_state(state)
        raise BrokenError("the global random numbers were drawn from")
    return "the same twice, with another prompt in between"


def _another_default(case: Case) -> str:
    ids, follow = case.rows[0][None], tokens(1, 3, 1)
    with case.press(case.model) as session:
        wanted, cache = rollout(session, ids, follow)
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float16)
        try:
            found, other = rollout(session, ids, follow)
        finally:
            torch.set_default_dtype(before)
    if gap(found, wanted) or kept(cache) != kept(other):
        raise BrokenError("logits or slots kept are others under torch.set_default_dtype(torch.float16)")
    return "the same under another default type of torch"


def _questions(case: Case) -> str:
    answers = []
    with case.press(case.model) as session:
        context = session.prefill(case.rows[0][None])
        for order in ((0, 1, 2), (2, 0, 1)):
            mine = {}
            for number in order:
                fork = session.prefill(tokens(1, 3 + number, number), cache=context.fork())
                mine[number] = decode(case.model, fork, tokens(1, 2, number))
            answers.append(mine)
    if any(gap(answers[0][number], answers[1][number]) for number in range(3)):
        raise BrokenError("questions asked of forks in another order get other answers")
    return "three questions in two orders, the same answers"


def _decodes(case: Case) -> str:
    ids, mask = case.batch
    with case.press(case.model) as session:
        logits, cache = rollout(session, ids, tokens(len(ids), case.steps, 4), mask)
    if not torch.isfinite(logits).all():
        raise BrokenError("logits after compression are not finite")
    if cache.get_seq_length() != ids.shape[1] + case.steps:
        raise BrokenError(f"the cache has seen {cache.get_seq_length()} tokens, expected {ids.shape[1] + case.steps}")
    return f"{case.steps} tokens after compression"


_PURE = "Decide from the block and the evidence of this call alone."
TRIALS = [
    Trial("decoding", _decodes, "See the checks above: the parts of the press are checked one by one.", gate=True),
    Trial(
        "I1 keep=1 is no press",
        _identity,
        "With keep=1, or room for all, nothing may change: move no slots, write into none.",
    ),
    Trial(
        "I2 rows of a padded batch",
        _rows_alone,
        "Padding (block.pos < 0) counts nowhere, and nothing is taken over the batch.",
    ),
    Trial("I4 a prompt in chunks", _chunks, _PURE),
    Trial("I4 a second turn", _turns, "Use positions and seen.rank, not the number of slots held."),
    Trial("I4 forks", _forks, _PURE),
    Trial("I6 model restored", _restored, "A method never touches the model or settings of the process."),
    Trial(
        "I11 another default type",
        _another_default,
        "Give every new tensor its dtype= and device=; int / int and int * 0.5 take the default type: .float() before.",
    ),
    Trial("I7 the same twice", _same_twice, _PURE),
    Trial("I7 order of questions", _questions, _PURE),
]
