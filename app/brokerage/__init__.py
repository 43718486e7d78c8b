"""Accounts at brokers, orders, trades, positions and what they cost."""
