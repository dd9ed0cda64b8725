"""One file a metric against the true toy: overlap of solids, surfaces, silhouettes, colours, faces too many."""
