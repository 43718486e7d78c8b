"""Providers of quotes and candles."""
