"""How good a result is: geometry compared with the true toy, extra faces, retrieval by a judge.

Nothing in generation imports this package: the true shape is only used afterwards.
"""
