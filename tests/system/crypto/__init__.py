"""The listing of cryptocurrencies as users have it: real processes, real sockets, simulated vendors."""
