"""One file per metric against the true toy: overlap of solids, surfaces, silhouettes, colours, extra faces."""
