"""What is optimised and what looks at it: fields, cameras, lights."""
