"""The measures. Each runs all contestants in every round."""
