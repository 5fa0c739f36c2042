"""The stages: one file each, one entry each, `run(context) -> facts`. They meet through files only."""
