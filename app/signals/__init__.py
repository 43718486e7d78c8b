"""Signals: those that users enter and follow, and those that are generated from candles."""
