"""Selection: which of the best candidates of a search is delivered, found out by training them."""
