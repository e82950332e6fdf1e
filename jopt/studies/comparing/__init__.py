"""Comparing two sides of many runs: amounts, intervals, claims, figures."""
