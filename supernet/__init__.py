"""The weight-sharing supernet: one set of weights from which every architecture of a space takes its slice."""
