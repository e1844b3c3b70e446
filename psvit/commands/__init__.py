"""All commands under one name."""
