"""Rows that are written in the transaction of a batch and published once it is committed."""
