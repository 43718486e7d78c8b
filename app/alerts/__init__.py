"""System 0: strategies and their keys, TradingView's webhook, alerts and their charts."""
