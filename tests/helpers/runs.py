"""Trainings of few images, as they are typed."""

DATA = ("--dataset", "folder:images", "--input-size", "8", "-j", "0")
TRAIN = ["train", "resnet8", *DATA, "--device", "cpu"]
BRIEF = ("--input-size", "8", "-j", "0", "-b", "8", "--epochs", "2", "--device", "cpu")
SHORT_TRAIN = ("train", "resnet8", "--dataset", "folder:images", *BRIEF, "--lr", "0.05")
RATES = ("lr-find", "resnet8", *DATA, "--set", "batch_size=8")
