"""The loss budget of -O3: penalties tried, judged on calibration data, and the one of fewest writes kept."""
