"""Report: one HTML file that says what a search found, on what that rests, and how to repeat it."""
