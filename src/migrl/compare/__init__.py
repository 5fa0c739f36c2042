"""Comparing two runs, two arms of a run, or a run and a peer's outputs, sample by sample.

read_run, pick_arm, read_peer -> narrow_sides, find_differences, refuse_differences -> compare_sides
-> print_comparison, render_markdown, write_flips
"""
