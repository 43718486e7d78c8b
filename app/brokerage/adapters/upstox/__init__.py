"""Upstox: orders by its version 3, everything else by version 2."""
