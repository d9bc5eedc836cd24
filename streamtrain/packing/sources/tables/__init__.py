"""Tables: files, and Hugging Face's data sets, whose columns become fields."""
