"""Evaluation of compressed KV caches: tasks, runner, statistics, reports, the `kvpress` command."""
