"""The report: verdicts, scores, curves and an explorer of samples in one self-contained HTML file."""
