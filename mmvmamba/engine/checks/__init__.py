"""Checks of data that come from others: each a plain function that needs no run."""
