"""What lbclient costs, measured here against what people would use instead. README.md says how to read it."""
