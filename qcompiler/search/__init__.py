"""What to compute in few bits, decided by measuring: sensitivity, mixtures, ranges, and what the target itself says."""
