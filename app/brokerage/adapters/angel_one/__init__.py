"""Angel One, over SmartAPI."""
