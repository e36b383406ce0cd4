"""Many cells: the grid, who runs which, worker processes and clusters, and bringing rows together."""
