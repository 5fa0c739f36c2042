"""Sources of samples: the rendered world, and folders of prepared real data."""
