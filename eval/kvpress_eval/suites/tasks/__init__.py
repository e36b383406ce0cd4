"""The tasks of SCBench, needles, long answers and continued texts: one file each."""
