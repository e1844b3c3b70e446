"""What all reports have in common: the page that they are, and how they word architectures and numbers."""
