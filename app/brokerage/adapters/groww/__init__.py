"""Groww: orders in two segments, with a reference that it takes once only."""
