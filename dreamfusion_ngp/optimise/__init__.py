"""Steps of an optimisation, and what runs them."""
