"""Any server that speaks OpenAI's chat completions: as a teacher, or as an arm that someone serves."""
