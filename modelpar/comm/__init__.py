"""Links between ranks: the grid, exchanges of activations, traffic, and the watch over a job that stands still."""
