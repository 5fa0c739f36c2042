"""Model folders, loading, inputs, decoding, FLOPs."""
