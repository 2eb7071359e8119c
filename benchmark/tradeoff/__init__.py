"""Leak rate over accuracy: what a defense protects beside what it costs, from the records of attacks and trainings."""
