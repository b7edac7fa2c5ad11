"""Multi-task problems, the balancers that weigh their tasks, and the training that runs them. Knows no sweep and no Ray."""
