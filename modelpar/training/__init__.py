"""Training: stages, minibatches, schedules, monitors, and going on after a loss."""
