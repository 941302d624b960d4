"""The loss budget of level 3: penalties tried, judged on calibration data, and the one of fewest writes kept."""
