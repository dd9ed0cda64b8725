"""Names of models, and their way from the hub to a local folder."""
