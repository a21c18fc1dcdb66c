"""Rows that are written in the transaction of a batch and published after its commit."""
