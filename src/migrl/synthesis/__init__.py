"""Teachers that write reasoning, and the filters of what they wrote."""
