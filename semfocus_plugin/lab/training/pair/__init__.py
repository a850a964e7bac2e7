"""The pair network of the comparison."""
