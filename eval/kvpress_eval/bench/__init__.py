"""Time and memory of presses, and what sweeps promise, measured."""
