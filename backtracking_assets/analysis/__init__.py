"""What completions say: answers, triggers, steps, degeneration, and the statistics of cells."""
