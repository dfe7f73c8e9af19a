"""What several methods compute alike: matching, selection, places, predictors."""
