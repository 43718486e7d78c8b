"""Trades, positions, P&L."""
