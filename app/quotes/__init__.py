"""Quotes and candles of listed symbols, fetched when somebody asks: from Yahoo, and from Angel One."""
