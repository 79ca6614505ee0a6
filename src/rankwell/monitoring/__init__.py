"""What is served, watched: counts that add up, and how far they have moved."""
