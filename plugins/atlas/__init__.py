"""What the Atlas DAGs share: only what the Amazon provider lacks."""
