"""What is measured (shapes), against whom (contenders) and how (timing) stand apart."""
