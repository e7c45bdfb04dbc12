"""The method as pure functions: what to run next, whom to prune, who won. No clock, no I/O, no random state."""
