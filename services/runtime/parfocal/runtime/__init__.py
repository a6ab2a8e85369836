"""What every Parfocal service shares; framework-free except the workers' drivers (`frameworks`)."""
