"""How a stage runs: its folder, processes, machine, metering and watch."""
