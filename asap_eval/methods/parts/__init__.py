"""What several methods share: matching, selection, acting blocks, predictors."""
