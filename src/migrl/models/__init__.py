"""Model families, folders, shapes, loading, inputs, decoding, FLOPs."""
