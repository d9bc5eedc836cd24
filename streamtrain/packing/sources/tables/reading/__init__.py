"""Where the rows of tables come from: text, binary files, and Hugging Face's data sets."""
