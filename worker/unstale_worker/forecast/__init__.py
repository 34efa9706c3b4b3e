"""Forecasts: the effect of pushing the migrations, or of a restart with the rules on disk."""
