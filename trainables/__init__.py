"""Multi-task problems, the balancers that weigh their tasks, and the training that runs them."""
