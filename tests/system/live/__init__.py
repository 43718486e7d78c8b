"""Live market data through the running service: a simulated Angel One on one side, HTTP and WebSocket on the other."""
