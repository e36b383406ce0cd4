"""`import kvpress_eval.lm_eval` registers `--model kvpress` in lm-evaluation-harness; docs/guides promises it."""

from .runs.lm_eval_model import PressedLM, main

__all__ = ["PressedLM", "main"]
