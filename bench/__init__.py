"""What the platform ETL costs, beside the least it could cost. `python -m bench` measures and prints."""
