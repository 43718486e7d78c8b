"""What brokers tell by themselves: webhooks and order streams."""
