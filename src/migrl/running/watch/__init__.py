"""Long runs: stalls, signals, alarms, room for checkpoints, trackers."""
