"""Measurements beside the board: Jacobians, diagnoses, speed."""
