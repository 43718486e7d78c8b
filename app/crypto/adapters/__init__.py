"""One folder a provider of listings; `wire` carries their requests."""
