"""Angel One's SmartAPI: session, instruments, candles, and the live feed."""
