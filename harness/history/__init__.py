"""What earlier runs found: one SQLite file, and the questions that a red morning asks of it."""
