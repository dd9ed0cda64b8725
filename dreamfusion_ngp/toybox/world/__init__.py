"""The toys: shapes whose truth is known, their pictures and captions."""
