"""Teachers: who writes the reasoning of the cold start, and what it is asked with."""
