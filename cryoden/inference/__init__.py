"""Trained models on volumes of any size."""
