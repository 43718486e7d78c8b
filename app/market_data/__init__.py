"""Live Indian market data: ticks from the feed to the store, candles, charts and streams."""
