"""The brokers, a folder each: requests over HTTP, and a pure mapping between our words and theirs."""
