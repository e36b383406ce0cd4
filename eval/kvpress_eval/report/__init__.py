"""What people read: the page of a suite, README tables, charts, pages of methods."""
