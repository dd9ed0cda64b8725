"""Reports on the method: groups of runs with some settings changed, a pool of processes that makes them, and the pages
and figures with the results.

Nothing in generation or evaluation imports this package.
"""
