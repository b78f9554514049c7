"""From sums to states: biases, sigmoids, and draws by a counter."""
