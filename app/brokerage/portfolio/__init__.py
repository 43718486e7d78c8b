"""Trades, positions, what they made and what they cost."""
