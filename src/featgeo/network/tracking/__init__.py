"""Analyses of a network while it trains, at a bounded cost and without a trace in the training."""
