"""`WS /ws`: live ticks, candles, alerts, signals, orders and jobs."""
