"""The laboratory: what trains, measures and compares. It imports the rest and is imported by nothing."""
