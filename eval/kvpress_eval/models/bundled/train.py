"""Train the bundled model from step 0 on a CPU; the same command resumes an interrupted run.

examples:
  python -m kvpress_eval.tiny.train --out runs/tiny           the bundled weights, an hour on 2 cores
  python -m kvpress_eval.tiny.train --out runs/tiny           again after an interruption: resumes
  python -m kvpress_eval.tiny.train --out runs/smoke --smoke  seconds, only shows that it runs
  python -m kvpress_eval.tiny.export runs/tiny --to FOLDER    what from_pretrained reads

Where other programs want the cores too, set OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0: waiting threads
then yield, which made a shared run over three times as fast.

Writes OUT/checkpoint.pt (every two minutes) and OUT/training.jsonl (first line: recipe, versions,
machine).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .meter import Meter
from .model import TinyLM, rope_table
from .optim import Optimizers, rate
from .samples import MIXTURE, batch
from .stages import FULL, SMOKE, Recipe
from .start import structured_start

CHECKPOINT = "checkpoint.pt"
LOG = "training.jsonl"
LOG_EVERY = 25
SAVE_SECONDS = 120.0


class Trainer:
    """One run in one folder; batches and rates depend on the step alone."""

    def __init__(self, recipe: Recipe, out: Path, eager: bool = False, bf16: bool = True) -> None:
        self.recipe, self.out, self.bf16 = recipe, out, bf16
        out.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(recipe.seed)
        self.model = TinyLM(recipe.shape)
        structured_start(self.model, recipe.seed)
        self.optimizers = Optimizers(self.model, recipe.muon_lr, recipe.adam_lr)
        self.loss = self.model.loss if eager else _compiled(self.model.loss)
        self.tables = {n: rope_table(recipe.shape, n) for n in {s.length for s in recipe.stages}}
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.log: list[dict[str, Any]] = [_header(self, eager)]
        if (out / CHECKPOINT).exists():
            self._resume()
        (out / LOG).write_text("".join(json.dumps(line) + "\n" for line in self.log))

    def run(self, stop_after: int | None = None) -> None:
        """Train to the end of the recipe, or until ``stop_after`` steps are done."""
        end = min(self.recipe.steps, stop_after or self.recipe.steps)
        meter, since, saved = Meter(), time.monotonic(), time.monotonic()
        while self.step < end:
            self._train_step(meter)
            if self.step % LOG_EVERY == 0 or self.step == end:
                now = time.monotonic()
                self.seconds, since = self.seconds + now - since, now
                self._write(meter)
                meter = Meter()
                if now - saved > SAVE_SECONDS or self.step == end:
                    self.save()
                    saved = time.monotonic()

    def _train_step(self, meter: Meter) -> None:
        recipe, step = self.recipe, self.step
        stage, length = recipe.stage(step), recipe.length(step)
        data = batch(recipe.seed, step, length, stage.tokens, easy=stage.easy)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss, predicted = self.loss(data.ids, *self.tables[length], data.at, data.target, data.weight)
        loss.backward()
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"loss is {loss.item()} at step {step}; the last checkpoint is intact")
        norm = self.optimizers.step(rate(step, recipe.steps, recipe.warmup, recipe.decay))
        self.step += 1
        self.tokens += data.ids.numel()
        meter.add(length, loss.item(), norm, predicted == data.target, data.answers)

    def _write(self, meter: Meter) -> None:
        stage = self.recipe.stage(self.step - 1)
        line = {
            "step": self.step,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 1),
            "length": stage.length,
            "easy": stage.easy,
            **meter.summary(stage.length),
        }
        self.log.append(line)
        with (self.out / LOG).open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    def save(self) -> None:
        """Write the checkpoint; a crash while writing leaves the previous one."""
        state = {
            "recipe": asdict(self.recipe),
            "model": self.model.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "log": self.log,
        }
        part = self.out / (CHECKPOINT + ".part")
        torch.save(state, part)
        os.replace(part, self.out / CHECKPOINT)

    def _resume(self) -> None:
        state = torch.load(self.out / CHECKPOINT, weights_only=True)
        if state["recipe"] != asdict(self.recipe):
            raise ValueError(f"{self.out / CHECKPOINT} belongs to another recipe; choose another --out or delete it")
        self.model.load_state_dict(state["model"])
        self.optimizers.load_state_dict(state["optimizers"])
        torch.set_rng_state(state["torch_rng"])
        self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]
        self.log = state["log"]


def _compiled(loss: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """``torch.compile`` where a compiler is at hand, else (10 to 50 % slower) the function."""
    chosen = torch.compile(loss, dynamic=False)

    def run(*args: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal chosen
        try:
            return chosen(*args)
        except Exception as error:  # many types, from a missing g++ to unsupported processors
            if chosen is loss:
                raise
            print(
                f"torch.compile failed, going on without it: {type(error).__name__}: {error}",
                flush=True,
            )
            chosen = loss
            return loss(*args)

    return run


def _header(trainer: Trainer, eager: bool) -> dict[str, Any]:
    return {
        "recipe": asdict(trainer.recipe),
        "mixture": MIXTURE,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "eager": eager,
        "bf16": trainer.bf16,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "processor": torch.backends.cpu.get_cpu_capability(),
    }


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m kvpress_eval.tiny.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run (checkpoint and log)")
    parser.add_argument("--smoke", action="store_true", help="a toy recipe, seconds")
    parser.add_argument("--seed", type=int, default=0, help="of weights and data (default 0)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--eager", action="store_true", help="do not use torch.compile")
    parser.add_argument("--fp32", action="store_true", help="no bf16 autocast, for processors without bf16")
    parser.add_argument("--stop-after", type=int, metavar="STEPS", help="save and stop there; resume later")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    recipe = replace(SMOKE if args.smoke else FULL, seed=args.seed)
    eager, bf16 = args.eager or args.smoke, not (args.fp32 or args.smoke)
    Trainer(recipe, args.out, eager=eager, bf16=bf16).run(args.stop_after)


if __name__ == "__main__":
    main()
