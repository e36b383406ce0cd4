"""Rows: what one says, where they lie, their statistics, and what may be compared."""
