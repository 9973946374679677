"""What is trained: pretraining and fine-tuning modules and their losses."""
