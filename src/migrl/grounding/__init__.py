"""Boxes, answers, prompts, mentions, samples and images: what grounding is about. No torch."""
