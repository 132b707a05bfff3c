"""A training of few images, as it is typed."""

TRAIN = ["train", "resnet8", "--dataset", "folder:images", "--input-size", "8", "-j", "0", "--device", "cpu"]
