"""Networks, their weights, and the anatomy shared by all of them: features and a linear head."""
