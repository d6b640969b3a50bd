"""What trained experts show: strategies, posteriors, estimates, landscapes."""
