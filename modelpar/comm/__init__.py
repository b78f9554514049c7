"""Links between ranks: the grid, exchanges of activations, traffic, and the watchdog of a job that stands still."""
