"""Videos: accuracy on Kinetics-400, clip by clip."""
