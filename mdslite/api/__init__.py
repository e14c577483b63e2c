"""Everything but predictions: the operations, what they stand on, and the application that they make."""
