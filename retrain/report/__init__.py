"""What a retraining says of its network: one HTML file, and the confusion matrix as a table."""
