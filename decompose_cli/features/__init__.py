"""What every study starts from: inputs, a network and images, and the features of the one on the other."""
