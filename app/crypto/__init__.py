"""Cryptocurrency listings: fetched on a schedule, listed, charted, with history, risk and portfolios."""
