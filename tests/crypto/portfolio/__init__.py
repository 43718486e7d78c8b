"""History, risk and portfolios."""
