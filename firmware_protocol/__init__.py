"""What travels on the wires of an EM-30: messages, codecs, limits. No dependencies, I/O, clock, threads."""
