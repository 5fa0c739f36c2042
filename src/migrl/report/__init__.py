"""The report: verdicts, scores, curves and a gallery of samples in one self-contained HTML file."""
