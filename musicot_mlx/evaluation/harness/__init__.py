"""What is rendered to judge a model, and what is written of it."""
