"""N networks of one shape as one: parameters in one matrix, forward passes batched, gradients taken at once."""
