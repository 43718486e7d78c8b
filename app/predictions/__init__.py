"""Forecasts of prices: made by models, published with what they are worth, and scored when their time has come."""
