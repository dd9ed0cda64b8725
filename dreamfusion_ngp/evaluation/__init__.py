"""How good a result is: geometry against the true toy, faces that are one too many, retrieval by a judge.

Nothing in generation imports this package: the true shape is looked at afterwards, never before.
"""
