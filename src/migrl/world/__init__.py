"""The tiny world: rendered scenes, multi-image tasks, a scripted teacher and a tiny base model."""
