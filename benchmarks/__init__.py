"""Measurements behind every number that the project states; see CLAIMS.md."""
