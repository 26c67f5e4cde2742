"""Use of a run's policy afterwards: evaluated on other settings, or sampled from."""
