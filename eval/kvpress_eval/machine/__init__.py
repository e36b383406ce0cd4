"""What a process stands on: threads, signals, files and locks, clocks and noise, the terminal, the hub."""
