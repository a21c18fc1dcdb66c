"""The measures: each takes turns with the contestants, round by round."""
