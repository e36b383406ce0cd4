"""One cell: its configuration, its model and press, asking, scoring, and the row that comes of it."""
