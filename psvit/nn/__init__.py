"""Networks: stems, layers, poolings, the PSViT model, and weights that come from elsewhere."""
