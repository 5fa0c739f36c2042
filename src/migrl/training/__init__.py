"""What the two trainings share: trainer, rewards, rollouts, checkpoints."""
