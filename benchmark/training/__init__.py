"""What a defense costs: a training suite from its YAML file to records and tables."""
