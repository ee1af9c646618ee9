"""What one scenario does in Airflow itself, between the operators: plain functions that its DAG makes tasks of."""
