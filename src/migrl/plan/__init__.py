"""`migrl plan`: what a recipe costs and whether it fits, before anything is spent. No torch, no weights.

Every figure stands beside its formula. What is assumed is in reproduce/plan.yaml with its source; what was measured is
taken from results/ and called measured.
"""
