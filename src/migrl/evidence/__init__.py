"""What a run leaves for others: evaluations, provenance, seals, publication, verification."""
