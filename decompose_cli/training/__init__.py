"""The training loop and what belongs to it: recipes, schedules, checkpoints, logs, export."""
