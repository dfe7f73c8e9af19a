"""Two trainings on frozen models: predictors of tokens, and a linear head for videos."""
