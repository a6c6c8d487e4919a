"""The three task functions, index, diff and enqueue: each takes a run and a number; they exchange files alone."""
