"""Measurements that a reader can repeat, side by side with what they cannot be faster than."""
