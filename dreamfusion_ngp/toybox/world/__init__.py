"""The toys: shapes with known ground truth, their pictures and captions."""
