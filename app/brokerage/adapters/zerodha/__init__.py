"""Zerodha, over Kite Connect."""
