"""What a prediction is compared with besides its input, chosen on training or validation images."""
