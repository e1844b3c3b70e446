"""Files that come with the package: search spaces, recipes and architectures."""
