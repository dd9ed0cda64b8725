"""What the reports on the method are made of: groups of runs with some settings changed, a pool of processes that makes
them, and the pages and figures that say what came out.

Nothing in generation or evaluation imports this package.
"""
