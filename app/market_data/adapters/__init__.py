"""What turns a provider's data into this feature's own words: the only place that knows both."""
