"""What turns prompts with images into completions."""
