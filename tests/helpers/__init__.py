"""What several tests need: calling the program, making inputs, cutting the power."""
