"""The paper's claims, their verdicts, reference runs, and the calibration of verdicts."""
