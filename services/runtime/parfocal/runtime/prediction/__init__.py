"""Prediction: the job, the loaded model, its tiles and its uncertainty."""
